from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.test import TransactionTestCase, override_settings

from switcher.apps import prepare_database
from switcher.audit import health, immutability_triggers, verification
from switcher.audit.immutability_triggers import drop_triggers
from switcher.audit.paths import key_files
from switcher.audit.signing_keys import KeyFiles
from switcher.watching import loop
from tests import databases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    databases.parametrize(metafunc)


@pytest.fixture(scope="session")
def postgresql_url(
    tmp_path_factory: pytest.TempPathFactory, django_db_setup: None, django_db_blocker: Any
) -> Iterator[str]:
    with django_db_blocker.unblock(), databases.postgresql(tmp_path_factory.mktemp("pg")) as found:
        yield found


@pytest.fixture
def database(
    request: pytest.FixtureRequest, django_db_blocker: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The database that this test runs on; see `both_databases`."""
    name: str = getattr(request, "param", "sqlite")
    if name == "sqlite":
        yield name
        return
    url = request.getfixturevalue("postgresql_url")
    monkeypatch.setenv("SWITCHER_DATABASE_URL", url)  # for processes that a test starts
    monkeypatch.setattr(immutability_triggers, "_expected", {})  # the rows of the other database
    with django_db_blocker.unblock(), databases.using(url):
        yield name


@pytest.fixture
def _django_db_helper(database: str, _django_db_helper: None) -> None:
    """The database is chosen before pytest-django opens its transaction there."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip browser tests without Chromium; fail if no test may be skipped."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    journeys = [item for item in items if item.get_closest_marker("journey")]
    if found or not journeys:
        return
    if os.environ.get("SWITCHER_NO_SKIPS"):
        raise pytest.UsageError("Chromium is missing, and no test may be skipped here.")
    for item in journeys:
        item.add_marker(pytest.mark.skip(reason="no Chromium: apt install chromium"))


@pytest.fixture(autouse=True, scope="session")
def _fast_password_hashes() -> Iterator[None]:
    """Hash by MD5 in this process: the real hasher takes 0.3 seconds. Servers that tests start
    use the real one."""
    fast = "django.contrib.auth.hashers.MD5PasswordHasher"
    with override_settings(PASSWORD_HASHERS=[fast, *settings.PASSWORD_HASHERS]):
        yield


@pytest.fixture(autouse=True)
def _no_reading_outlives_its_test() -> Iterator[None]:
    yield
    loop.forget()
    health.forget()
    verification.forget()


@pytest.fixture
def proofs(settings: Any, tmp_path: Path) -> KeyFiles:
    """Return the files of this test's own signing key, public keys and anchors."""
    settings.SWITCHER_AUDIT_KEY = str(tmp_path / "audit-key.pem")
    settings.SWITCHER_HOST_KEY = str(tmp_path / "host-credentials.key")
    settings.SWITCHER_AUDIT_PUBLIC_KEYS = str(tmp_path / "audit-keys.pub")
    settings.SWITCHER_AUDIT_ANCHORS = str(tmp_path / "anchors.txt")
    settings.SWITCHER_AUDIT_SEGMENTS = str(tmp_path / "audit-segments")
    return key_files()


# Tables that each migrate fills and no test changes. Django also empties and refills these, which
# takes a third of a small test's time.
KEPT = {"django_migrations", "django_content_type", "auth_permission"}


@pytest.fixture(autouse=True, scope="session")
def _tables_are_emptied_between_tests() -> Iterator[None]:
    """Drop the immutability triggers while a transactional test empties the tables at its end."""
    teardown = TransactionTestCase._fixture_teardown

    def empty(_: TransactionTestCase) -> None:
        drop_triggers()
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                for table in set(connection.introspection.django_table_names()) - KEPT:
                    cursor.execute(f'DELETE FROM "{table}"')
        finally:
            prepare_database()

    TransactionTestCase._fixture_teardown = empty  # type: ignore[method-assign]
    yield
    TransactionTestCase._fixture_teardown = teardown  # type: ignore[method-assign]
