"""What watcher, API and page do about a server that hangs or answers nonsense."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from typing import Any

import pytest
from django.test import Client

from switcher.models import Host, Reading, SwitchEvent
from switcher.watching.loop import check_now
from tests import make
from tests.hung import server
from tests.hung.server import ALL, ENDLESS, HUGE, SOME, WRONG, A, Bad, Ollama, redirects

Shorten = Callable[[], None]
pytestmark = pytest.mark.django_db(transaction=True)

every_bad_one = pytest.mark.parametrize("bad", ALL.values(), ids=ALL)
some_bad_ones = pytest.mark.parametrize("bad", SOME.values(), ids=SOME)


@contextmanager
def bounded(ollama: Ollama) -> Iterator[None]:
    """Check that at most one call waits for a server that hangs. That this ends at all shows that
    the call's deadline ends it.
    """
    yield
    if ollama.bad in ENDLESS.values():
        assert ollama.misbehaved <= 1


@pytest.fixture
def operator(host: Host) -> Client:
    """Return a signed-in operator's client after a first request, which loads shared code."""
    client = Client()
    make.sign_in(client, make.user("olga"))
    client.get("/ollama/switches")
    return client


def facts(host: Host) -> Any:
    row = Reading.objects.get(host=host)
    return [r["digest"] for r in row.resident], row.installed, row.version, row.answered_at


@every_bad_one
def test_a_failed_reading_ends_and_keeps_what_was_known(
    host: Host, ollama: Ollama, shorten: Shorten, bad: Bad
) -> None:
    assert check_now(host.pk, host.base_url).answered
    known = facts(host)
    assert known[0] == [A]
    ollama.bad = bad
    shorten()
    with bounded(ollama):
        seen = check_now(host.pk, host.base_url)
    assert seen.error
    assert len(seen.error) < 700
    assert (seen.resident, seen.installed) == ((), ())
    row = Reading.objects.get(host=host)
    assert (row.error, row.failures) == (seen.error, 1)
    assert facts(host) == known, "the last good reading stays, with its time"


@pytest.mark.parametrize("path", ["/api/tags", "/api/version"])
@some_bad_ones
def test_a_reading_that_fails_halfway_counts_as_failed(
    host: Host, ollama: Ollama, monkeypatch: pytest.MonkeyPatch, bad: Bad, path: str
) -> None:
    monkeypatch.setattr("switcher.ollama.client.QUICK_TIMEOUT_S", 1.0)
    ollama.bad, ollama.where = bad, lambda _, asked: asked == path
    with bounded(ollama):
        seen = check_now(host.pk, host.base_url)
    assert seen.error
    assert (seen.resident, seen.installed) == ((), ())


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (ENDLESS["accepts and never answers"], "did not answer within"),
        (ENDLESS["drips chunks"], "did not answer within"),
        (HUGE["100 MB of JSON"], "exceeds 8 MB and was cut"),
        (HUGE["one header without an end"], "something that is not HTTP"),
        (WRONG["closes at once"], "The connection to http://127.0.0.1:"),
        (WRONG["a length that is too long, then closes"], "broke off"),
        (WRONG["HTML with 200"], "answered 200 with something that is not JSON"),
        (WRONG["500 with JSON"], "Ollama answered 500: out of memory"),
        (WRONG["500 without JSON"], "answered 500 without saying why"),
        (WRONG["millions of parts"], "too many parts"),
        (WRONG["no HTTP"], "something that is not HTTP"),
        (WRONG["sizes that are not a number"], "in a shape that is not Ollama's"),
        (WRONG["a redirect to itself"], "answered 307, a redirect"),
    ],
)
def test_the_error_tells_what_the_server_did(
    host: Host, ollama: Ollama, shorten: Shorten, bad: Bad, text: str
) -> None:
    ollama.bad = bad
    if bad in ENDLESS.values():
        shorten()
    assert text in check_now(host.pk, host.base_url).error


def test_no_redirect_is_followed_to_another_host(host: Host, ollama: Ollama) -> None:
    with server.ollama() as other:
        ollama.bad = redirects(f"{other.url}/api/ps")
        assert "a redirect" in check_now(host.pk, host.base_url).error
        assert other.raw.connections == 0
    assert ollama.asked == ["GET /api/ps"]


# --- requesting a plan ------------------------------------------------------------------------


@some_bad_ones
def test_the_api_reports_that_there_is_no_plan_and_what_to_do(
    host: Host, ollama: Ollama, operator: Client, shorten: Shorten, bad: Bad
) -> None:
    ollama.bad = bad
    shorten()
    with bounded(ollama):
        response = operator.post(
            "/ollama/models/switch", '{"model": "mid-b", "dry_run": true}', "application/json"
        )
    assert response.status_code in (502, 503, 504)
    assert response["Content-Type"] == "application/problem+json"
    problem = response.json()
    assert problem["active"]["model"] == "mid-a:latest", "the present state"
    assert problem["detail"].split(". ")[-1].startswith(("Check", "Look")), "what to do"
    assert not SwitchEvent.objects.exists()


@some_bad_ones
def test_the_plan_page_reports_it_too(
    host: Host, ollama: Ollama, operator: Client, shorten: Shorten, bad: Bad
) -> None:
    make.profile("mid-b")
    ollama.bad = bad
    shorten()
    with bounded(ollama):
        response = operator.get("/plan", {"host": "north-1", "profile": "mid-b"})
    assert response.status_code == 200
    page = unescape(response.content.decode())
    assert "The host does not answer." in page or "The host's answer could not be used." in page
    assert "There is no plan to run." in page
    assert "Check that" in page or "Look at the Ollama server" in page


@some_bad_ones
def test_models_are_listed_as_they_were_last_seen(
    host: Host, ollama: Ollama, operator: Client, shorten: Shorten, bad: Bad
) -> None:
    check_now(host.pk, host.base_url)
    ollama.bad = bad
    shorten()
    with bounded(ollama):
        response = operator.get("/ollama/models")
    assert response.status_code == 200
    listed = response.json()
    assert listed["error"]
    assert [m["digest"] for m in listed["resident"]] == [A]
