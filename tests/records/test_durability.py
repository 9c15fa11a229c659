"""What is committed is on the disk before a file beside the database tells of it."""

from __future__ import annotations

import pytest
from django.db import connection


@pytest.mark.django_db
def test_a_commit_is_on_the_disk_before_the_key_remembers_the_checkpoint_in_it() -> None:
    """With less, a loss of power leaves a database that is older than `audit-key.last`: signing
    stops then, as after a cut."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA synchronous")
            assert cursor.fetchone() == (2,), "FULL"
        else:
            cursor.execute("SHOW synchronous_commit")
            assert cursor.fetchone() == ("on",)
