from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from tests.faultlab import database


@contextmanager
def put_back() -> Iterator[None]:
    """Give the tests their own database back after the block, whatever replaced it."""
    theirs, row = connections["default"], connections.databases["default"]
    try:
        yield
    finally:
        connections["default"], connections.databases["default"] = theirs, row


@pytest.fixture(scope="session")
def lab_database(django_db_blocker: Any) -> BaseDatabaseWrapper:
    """Create and fill the lab's in-memory database once, as the command does."""
    with django_db_blocker.unblock(), put_back():
        database.use_memory()
        database.fill()
        return connections["default"]


@pytest.fixture
def ground(lab_database: BaseDatabaseWrapper, django_db_blocker: Any) -> Iterator[None]:
    with django_db_blocker.unblock(), put_back():
        connections["default"] = lab_database
        connections.databases["default"] = lab_database.settings_dict
        yield
