"""What was moved or erased, as the pages tell it and let people do it."""

from __future__ import annotations

import asyncio
import os
import re
from datetime import timedelta

import pytest
from django.test import AsyncClient, Client

from switcher.audit import checkpoints
from switcher.audit.archiving import archive
from switcher.audit.immutability_triggers import drop_triggers, make_triggers
from switcher.audit.paths import archive_folder
from switcher.audit.signing_keys import KeyFiles
from switcher.audit.verification import verify
from switcher.models import ArchiveFile, AuditEntry, LedgerRow, Origin
from tests import make
from tests.audit.conftest import ANNA, tell_many

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def moved(proofs: KeyFiles) -> ArchiveFile:
    """Thirty entries in a file, five behind it."""
    tell_many(30, host="north-1")
    checkpoints.sign()
    assert archive(make.AFTER_ALL, ANNA) is not None
    tell_many(5, host="north-1")
    return ArchiveFile.objects.get()


def test_a_moved_entry_is_named_with_its_file(moved: ArchiveFile, auditor: Client) -> None:
    response = auditor.get("/audit/7/")
    assert response.status_code == 404
    assert "Entry 7 was moved" in response.content.decode()
    assert moved.file_name in response.content.decode()


def test_the_oldest_page_says_where_older_ones_are(moved: ArchiveFile, auditor: Client) -> None:
    text = auditor.get("/audit/").content.decode()
    assert f"Entries 1 to {moved.last}, until" in text


def test_a_moment_whose_entries_were_moved_names_their_file(
    moved: ArchiveFile, auditor: Client
) -> None:
    at = (moved.last_at - timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M")
    text = auditor.get(f"/audit/when/?at={at}").content.decode()
    assert f'moved to <span class="mono">{moved.file_name}</span>' in text


@pytest.mark.parametrize("kept", ["7", '{"north-1":5}', '{"north-1":{"since":"x"}}', "[1]"])
def test_what_the_entry_keeps_of_hosts_may_be_anything(
    moved: ArchiveFile, auditor: Client, kept: str
) -> None:
    body = LedgerRow.objects.get(pk=moved.entry).body
    changed = re.sub(r'"hosts":{.*?}}?,"', f'"hosts":{kept},"', body)
    assert changed != body
    drop_triggers()
    LedgerRow.objects.filter(pk=moved.entry).update(body=changed)
    make_triggers()
    assert auditor.get("/audit/when/").status_code == 200


def test_the_verify_page_lists_the_files_and_says_which_is_gone(
    moved: ArchiveFile, auditor: Client
) -> None:
    text = auditor.get("/audit/verify/").content.decode()
    assert moved.file_name in text
    assert "not in its folder" not in text
    (archive_folder() / moved.file_name).unlink()
    assert "not in its folder" in auditor.get("/audit/verify/").content.decode()


def test_an_auditor_takes_a_file_along_and_that_is_told(
    moved: ArchiveFile, streaming: AsyncClient
) -> None:
    async def take() -> bytes:
        response = await streaming.post(f"/audit/segments/{moved.first}")
        assert response.status_code == 200
        return b"".join([part async for part in response])

    assert asyncio.run(take()) == (archive_folder() / moved.file_name).read_bytes()
    entry = AuditEntry.objects.get(kind="audit.exported")
    assert (entry.facts["whole"], entry.facts["filter"]) == (True, {"segment": moved.file_name})


def test_a_file_that_is_gone_is_said_to_be(moved: ArchiveFile, auditor: Client) -> None:
    (archive_folder() / moved.file_name).unlink()
    response = auditor.post(f"/audit/segments/{moved.first}")
    assert response.status_code == 404
    assert "is no longer in its folder" in response.content.decode()
    assert auditor.post("/audit/segments/9999").status_code == 404


def take(streaming: AsyncClient, first: int) -> tuple[int, bytes]:
    async def go() -> tuple[int, bytes]:
        response = await streaming.post(f"/audit/segments/{first}")
        if not response.streaming:
            return response.status_code, response.content
        return response.status_code, b"".join([part async for part in response])

    return asyncio.run(go())


@pytest.mark.parametrize("name", ["../audit-key.pem", "/etc/passwd", "audit-old.jsonl"])
def test_the_name_that_the_database_has_of_a_file_leads_nowhere(
    moved: ArchiveFile, streaming: AsyncClient, proofs: KeyFiles, name: str
) -> None:
    """Whoever may write into the database may not read the server's files by it."""
    assert (archive_folder() / "../audit-key.pem").is_file()
    drop_triggers()
    ArchiveFile.objects.update(name=name)
    make_triggers()
    path = archive_folder() / f"audit-{moved.first:012}-{moved.last:012}.jsonl"
    assert take(streaming, moved.first) == (200, path.read_bytes())
    assert verify().ok


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_only_a_regular_file_is_read(
    moved: ArchiveFile, streaming: AsyncClient, proofs: KeyFiles, what: str
) -> None:
    path = archive_folder() / moved.file_name
    path.unlink()
    if what == "link":
        path.symlink_to(proofs.private)
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    status, content = take(streaming, moved.first)
    assert (status, b"PRIVATE KEY" in content) == (404, False)
    with pytest.raises(OSError, match=moved.file_name):
        moved.open()
    assert not verify().report.complete


def test_an_operator_takes_none_along(moved: ArchiveFile, operator: Client) -> None:
    assert operator.post(f"/audit/segments/{moved.first}").status_code == 403


def test_an_admin_erases_what_is_personal(proofs: KeyFiles, admin: Client) -> None:
    tell_many(2)
    page = admin.get("/audit/erase/anna/").content.decode()
    assert "2 addresses and browsers that anna acted from" in " ".join(page.split())
    response = admin.post("/audit/erase/anna/", {"reason": "asked by letter"}, follow=True)
    assert "2 addresses and browsers of anna erased." in response.content.decode()
    assert not Origin.objects.filter(agent="Firefox").exists()
    entry = AuditEntry.objects.get(kind="audit.erased")
    assert (entry.actor, entry.reason) == ("ada", "asked by letter")


@pytest.mark.parametrize("role", ["auditor", "operator"])
def test_nobody_else_erases(proofs: KeyFiles, role: str, request: pytest.FixtureRequest) -> None:
    tell_many(1)
    client = request.getfixturevalue(role)
    assert client.get("/audit/erase/anna/").status_code == 403
    assert client.post("/audit/erase/anna/").status_code == 403
    assert not AuditEntry.objects.filter(kind="audit.erased").exists()


def test_a_reason_is_plain_text(proofs: KeyFiles, admin: Client) -> None:
    tell_many(1)
    response = admin.post("/audit/erase/anna/", {"reason": "a\0b"}, follow=True)
    assert "Nothing was erased. A reason is plain text." in response.content.decode()
    assert not AuditEntry.objects.filter(kind="audit.erased").exists()


def test_nothing_is_known_of_somebody_unknown(proofs: KeyFiles, admin: Client) -> None:
    assert admin.get("/audit/erase/nobody/").status_code == 404
