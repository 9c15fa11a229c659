"""The page that verifies the trail, and its downloads."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from django.test import Client

from switcher.audit import health, verification
from switcher.audit.deliveries import Deliverer
from switcher.audit.immutability_triggers import drop_triggers, make_triggers
from switcher.audit.paths import FILE, Sink
from switcher.audit.signing_keys import KeyFiles
from switcher.audit.verification import Progress
from switcher.audit.verifier import switchboard_verify
from switcher.audit.verifier.switchboard_verify import PublicKey
from switcher.models import AuditEntry, LedgerRow
from tests import make
from tests.audit.conftest import Background
from tests.panel.test_board import text_of

pytestmark = pytest.mark.django_db

BEGAN = datetime(2026, 11, 24, 14, 32, 7, tzinfo=UTC)


@pytest.fixture
def signed(proofs: KeyFiles) -> KeyFiles:
    make.host()
    Background().begin()
    Deliverer(Sink(FILE, str(proofs.private.with_name("anchors.txt")))).tick()
    return proofs


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify without a thread, so that the click is answered at the end."""

    def start(actor: object) -> bool:
        verification.run(actor)  # type: ignore[arg-type]
        return True

    monkeypatch.setattr(verification, "start", start)


def test_the_page_shows_the_state_of_the_proofs(signed: KeyFiles, auditor: Client) -> None:
    text = text_of(auditor.get("/audit/verify/"))
    assert "No problem found." in text
    assert "intact yes anchored yes complete yes" in text
    assert "Sink: file last at" in text
    assert "Verify all 3 entries now" in text


def test_an_empty_trail_has_a_page_too(proofs: KeyFiles, auditor: Client) -> None:
    assert "Not verified yet." in text_of(auditor.get("/audit/verify/"))


@pytest.mark.usefixtures("_at_once")
def test_a_click_verifies_the_trail_and_leaves_an_entry(signed: KeyFiles, auditor: Client) -> None:
    response = auditor.post("/audit/verify/")
    assert (response.status_code, response["Location"]) == (302, "/audit/verify/")
    entry = AuditEntry.objects.filter(kind="audit.checked").first()
    assert entry is not None
    assert (entry.actor, entry.facts["ok"]) == ("arno", True)
    assert "for arno" in text_of(auditor.get("/audit/verify/"))


@pytest.mark.usefixtures("_at_once")
def test_a_bad_trail_is_shown_with_its_first_bad_entry(signed: KeyFiles, auditor: Client) -> None:
    drop_triggers()
    LedgerRow.objects.filter(seq=2).update(body="{}")
    make_triggers()
    text = text_of(auditor.post("/audit/verify/", headers={"HX-Request": "true"}))
    assert "The first bad entry is 2." in text
    assert "intact no anchored yes complete yes" in text
    assert "Entry 2 was changed." in text
    health.health()
    board = text_of(auditor.get("/"))
    assert "The audit trail is not intact. First bad entry: 2." in board
    assert "Check the audit trail" in board


@pytest.mark.usefixtures("_at_once")
def test_a_failed_verification_says_why(signed: KeyFiles, auditor: Client) -> None:
    anchors = signed.private.with_name("anchors.txt")
    anchors.unlink(missing_ok=True)
    anchors.mkdir()  # a folder is no file of anchors
    text = text_of(auditor.post("/audit/verify/", headers={"HX-Request": "true"}))
    assert "for arno, failed. It could not be read to its end: Is a directory" in text
    assert text.count("It could not be read") == 1
    verification.forget()  # as another process shows it
    text = text_of(auditor.get("/audit/verify/"))
    assert "for arno, failed. It could not be read to its end: Is a directory" in text
    assert "The audit trail could not be verified." in text


def test_the_fragment_polls_while_the_verification_runs(
    signed: KeyFiles, auditor: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        verification, "_progress", Progress("olga", BEGAN, done=250_000, total=1_000_000)
    )
    response = auditor.get("/audit/verify/progress", headers={"HX-Request": "true"})
    text = response.content.decode()
    assert re.search(r'hx-get="/audit/verify/progress"\s+hx-trigger="every 1s"', text)
    assert '<progress max="100" value="25"' in text
    assert "Verifying for olga: 250,000 of 1,000,000 entries read." in text_of(response)
    assert "<h1>" not in text
    # A second click changes nothing, and the page without script says so.
    with verification._running:
        assert auditor.post("/audit/verify/").status_code == 302
    assert "A verification is running already." in text_of(auditor.get("/audit/verify/"))


def test_the_fragment_without_script_redirects_to_the_page(
    signed: KeyFiles, auditor: Client
) -> None:
    assert auditor.get("/audit/verify/progress")["Location"] == "/audit/verify/"


def test_the_public_keys_can_be_downloaded(signed: KeyFiles, auditor: Client) -> None:
    response = auditor.get("/audit/key")
    assert response["Content-Disposition"] == 'attachment; filename="audit-keys.pub"'
    assert PublicKey.from_text(response.content.decode()) == signed.root()[0]
    assert b"PRIVATE" not in response.content


def test_before_the_first_signature_there_is_no_key(proofs: KeyFiles, auditor: Client) -> None:
    assert auditor.get("/audit/key").status_code == 404


def test_the_verifier_can_be_downloaded_unchanged(auditor: Client) -> None:
    response = auditor.get("/audit/switchboard_verify.py")
    with open(switchboard_verify.__file__, "rb") as file:
        assert response.content == file.read()


@pytest.mark.parametrize(
    "address",
    ["/audit/verify/", "/audit/verify/progress", "/audit/key", "/audit/switchboard_verify.py"],
)
def test_only_staff_get_any_of_it(
    address: str, client: Client, sign_in: Callable[..., Client]
) -> None:
    assert client.get(address)["Location"].startswith("/login/")
    assert sign_in("", "nobody").get(address).status_code == 403
