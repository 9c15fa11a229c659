"""A switch on a server that hangs or answers nonsense ends, with a true record."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from switcher.domain.states import ENDED, State, can_move
from switcher.models import AuditEntry, Host, Lease, SwitchEvent
from switcher.switching import service
from switcher.switching.service import SwitchRequest
from switcher.switching.worker import run_once
from tests.hung import server
from tests.hung.conftest import ANNA, DEADLINE_S
from tests.hung.server import ALL, ENDLESS, SOME, A, Bad, Ollama, full_backlog, redirects

Shorten = Callable[[], None]
pytestmark = pytest.mark.django_db(transaction=True)

bad_ones = pytest.mark.parametrize("bad", ALL.values(), ids=ALL)


def switch(ollama: Ollama, calls: int) -> SwitchEvent:
    """Switch to mid-b and wait for the end; `calls` may wait for their whole deadline."""
    row, _ = service.request_switch(SwitchRequest("mid-b", strategy="swap"), ANNA)
    assert run_once(row.pk)
    if ollama.bad in ENDLESS.values():
        assert ollama.misbehaved <= calls
    return SwitchEvent.objects.get(pk=row.pk)


def check_record(row: SwitchEvent) -> None:
    """Check that it ended once, by valid transitions, released its lease, and says what
    happened.
    """
    assert row.state in ENDED
    assert row.ended_at is not None
    assert row.error
    assert row.error_code not in ("", "internal"), row.error
    assert row.outcome.endswith("."), row.outcome
    kinds = AuditEntry.objects.filter(switch=row).order_by("pk").values_list("kind", flat=True)
    states = [k.removeprefix("switch.") for k in kinds if k.removeprefix("switch.") in set(State)]
    assert sum(s in ENDED for s in states) == 1
    for left, right in itertools.pairwise(states):
        assert can_move(State(left), State(right)), states
    assert "host.activated" not in set(kinds)
    assert Lease.objects.get(host_id=row.host_id).owner == ""
    host = Host.objects.get(pk=row.host_id)
    assert (host.active_tag, host.active_digest) == ("mid-a", A)


def posts(ollama: Ollama) -> list[str]:
    """Return the calls that may change something."""
    return [a for a in ollama.asked if not a.startswith("GET") and a != "POST /api/show"]


@bad_ones
def test_if_every_call_fails_the_switch_fails_and_touches_nothing(
    host: Host, ollama: Ollama, shorten: Shorten, bad: Bad
) -> None:
    ollama.bad = bad
    shorten()
    row = switch(ollama, calls=2)
    check_record(row)
    assert (row.state, row.degraded) == ("failed", False)
    assert row.outcome.startswith("Nothing was touched on north-1.")
    assert posts(ollama) == []
    assert "mid-a:latest" in ollama.loaded


@bad_ones
def test_if_the_load_fails_the_old_model_is_restored(host: Host, ollama: Ollama, bad: Bad) -> None:
    """All other calls work, so what the server holds can be read."""
    loads: list[str] = []

    def first_load(method: str, path: str) -> bool:
        if path == "/api/generate" and "mid-a:latest" not in ollama.loaded and not loads:
            loads.append(path)
            return True
        return False

    ollama.bad, ollama.where = bad, first_load
    row = switch(ollama, calls=2)
    check_record(row)
    assert loads
    assert (row.state, row.degraded, row.restored) == ("rolled_back", False, "mid-a")
    assert ollama.loaded == {"mid-a:latest": A}
    assert row.outcome == "mid-b did not become active. mid-a is active again."


@pytest.mark.parametrize("bad", SOME.values(), ids=SOME)
def test_if_the_server_turns_bad_during_a_switch_the_host_is_degraded(
    host: Host, ollama: Ollama, shorten: Shorten, bad: Bad
) -> None:
    """Nothing can be restored or even read, and the outcome says so."""
    ollama.changed = shorten
    ollama.bad, ollama.where = bad, lambda *_: "mid-a:latest" not in ollama.loaded
    row = switch(ollama, calls=6)
    check_record(row)
    assert (row.state, row.degraded, row.after) == ("failed", True, None)
    assert "so what it holds is not known" in row.outcome
    host.refresh_from_db()
    assert host.degraded == row.outcome


@pytest.mark.parametrize("bad", [ENDLESS["drips a body"], ENDLESS["accepts and never answers"]])
def test_a_model_that_cannot_be_verified_is_not_activated(
    host: Host, ollama: Ollama, shorten: Shorten, bad: Bad
) -> None:
    """The model is loaded and answers its warm-up; then `/api/ps` hangs."""
    ollama.bad = bad
    ollama.changed = lambda: shorten() if "mid-b:latest" in ollama.loaded else None
    ollama.where = lambda _, path: path == "/api/ps" and "mid-b:latest" in ollama.loaded
    row = switch(ollama, calls=5)
    check_record(row)
    assert (row.state, row.degraded, row.error_code) == ("failed", True, "timed-out")


def test_a_load_that_only_claims_success_is_noticed(host: Host, ollama: Ollama) -> None:
    generate = ollama._generate

    def lie(sent: dict[str, object]) -> object:
        if str(sent["model"]).startswith("mid-b"):
            return {"done": True, "response": "Hi"}
        return generate(sent)

    ollama._generate = lie  # type: ignore[method-assign]
    row = switch(ollama, calls=2)
    check_record(row)
    assert (row.state, row.error_code) == ("rolled_back", "not-resident")
    assert ollama.loaded == {"mid-a:latest": A}


def test_a_redirect_to_another_host_is_not_followed(host: Host, ollama: Ollama) -> None:
    """The other host receives nothing."""
    with server.ollama() as other:
        ollama.bad = redirects(f"{other.url}/api/ps")
        row = switch(ollama, calls=1)
        check_record(row)
        assert "a redirect: not Ollama" in row.error
        assert (other.asked, other.raw.connections) == ([], 0)


def test_a_host_that_accepts_no_connection_ends_the_switch(
    host: Host, ollama: Ollama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("switcher.ollama.calls.CONNECT_TIMEOUT_S", DEADLINE_S)
    with full_backlog() as url:
        Host.objects.update(base_url=url)
        row = switch(ollama, calls=1)
    check_record(row)
    assert row.error_code in ("unreachable", "timed-out")
