from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.process import copy, seed


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A migrated database with a signed-in admin, and the session's key."""
    data = tmp_path_factory.mktemp("server") / "data"
    return data, seed(data)


@pytest.fixture
def data(template: tuple[Path, str], tmp_path: Path) -> Path:
    return copy(template[0], tmp_path / "data")


@pytest.fixture
def session_key(template: tuple[Path, str]) -> str:
    return template[1]
