"""A server whose database cannot be used answers with the reason."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, SuspiciousOperation
from django.db import OperationalError, ProgrammingError
from django.test import AsyncClient, Client

from project.command import main
from project.environment import create_data_dir
from project.quiet_refusals import QuietRefusals
from switcher.queries.database import outage_of

FULL = OperationalError("database or disk is full")


def fail_with(exc: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise exc

    return fail


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("database or disk is full", "the disk is full"),
        ("could not extend file: No space left on device", "the disk is full"),
        ("database is locked", "it is locked by another program"),
        ("canceling statement due to lock timeout", "it is locked by another program"),
        ("attempt to write a readonly database", "it is read-only"),
        ("cannot execute INSERT in a read-only transaction", "it is read-only"),
        ("unable to open database file", "it cannot be opened"),
        ("no such table: django_session", "it lacks a table or a column"),
        ("connection to server failed: Connection refused", "it cannot be reached"),
    ],
)
def test_the_reason_of_an_outage_is_told_in_words(error: str, reason: str) -> None:
    assert outage_of(OperationalError(error)) == reason


def test_the_cause_of_an_error_is_found_and_a_mistake_is_no_outage() -> None:
    wrapped = RuntimeError("it failed")
    wrapped.__cause__ = FULL
    assert outage_of(wrapped) == "the disk is full"
    assert outage_of(ProgrammingError("syntax error")) == ""
    assert outage_of(ValueError("the disk is full")) == ""


@pytest.fixture
def outside(client: Client) -> Client:
    client.raise_request_exception = False
    return client


def test_a_page_is_answered_with_the_reason(
    outside: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django.contrib.sessions.backends.db.SessionStore.load", fail_with(FULL))
    outside.cookies["session_id"] = "a" * 32
    response = outside.get("/")
    assert response.status_code == 503
    assert response["Retry-After"]
    assert "cannot be used now: the disk is full" in response.content.decode()


@pytest.mark.django_db
def test_a_login_that_cannot_be_recorded_is_answered_with_the_reason(
    outside: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OperationalError("attempt to write a readonly database")
    monkeypatch.setattr("switcher.records.logins.lockout_of", fail_with(error))
    response = outside.post("/login/", {"username": "anna", "password": "a demo password"})
    assert response.status_code == 503
    assert "it is read-only" in response.content.decode()


@pytest.mark.django_db
async def test_the_reason_is_told_under_asgi_too(
    async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async_client.raise_request_exception = False
    monkeypatch.setattr("django.contrib.sessions.backends.db.SessionStore.load", fail_with(FULL))
    async_client.cookies["session_id"] = "a" * 32
    for path in ("/", "/ollama/models"):
        response = await async_client.get(path)
        assert response.status_code == 503
        assert "cannot be used now: the disk is full" in response.content.decode()


def record_of(exc: Exception) -> logging.LogRecord:
    info = (type(exc), exc, None)
    return logging.LogRecord("django.request", logging.ERROR, "x", 1, "failed on %s", ("/",), info)


@pytest.mark.parametrize("exc", [FULL, SuspiciousOperation("a foreign host name")])
def test_a_refused_request_leaves_one_line_in_the_log(exc: Exception) -> None:
    record = record_of(exc)
    QuietRefusals().filter(record)
    assert record.exc_info is None
    expected = outage_of(exc) or str(exc)
    assert record.getMessage() == f"failed on /: {expected}"


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    record = record_of(ZeroDivisionError("division by zero"))
    QuietRefusals().filter(record)
    assert record.exc_info is not None


def test_a_command_ends_with_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["switchboard", "check"])
    error = OperationalError("attempt to write a readonly database")
    monkeypatch.setattr("django.core.management.execute_from_command_line", fail_with(error))
    with pytest.raises(SystemExit, match="cannot be used: it is read-only"):
        main()


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ImproperlyConfigured, match="file/data cannot be created: Not a directory"):
        create_data_dir(tmp_path / "file" / "data")
