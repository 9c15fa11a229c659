"""The gateway in front of a host that hangs or answers nonsense."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from switcher.concurrency.threads import in_thread
from switcher.domain import inflight
from switcher.domain.specs import Spec
from switcher.gateway import host_calls
from switcher.models import Host
from switcher.ollama import relay
from tests.gateway.conftest import ask, set_active
from tests.hung import server
from tests.hung.conftest import add_host
from tests.hung.server import ALL, HUGE, SOME, Bad, Ollama, drips, pours, says
from tests.ollama.rawserver import json_answer
from tests.until import until_async

SILENCE_S = 0.5
STREAM = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
LINES = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n"
# A host that keeps sending is read until the client disconnects, like any long reply.
DRIPPING = [name for name in ALL if name.startswith(("drips", "says 100"))]
# Any JSON object is relayed with its status; interpreting it is up to the client.
_PASSED = (
    *("sizes", "names", "a time", "invalid", "half a surr", "no models", "models that"),
    *("nested deeply in", "millions", "500 with JSON", "503", "an error that is no text"),
)

PASSED = {name: bad for name, bad in ALL.items() if name.startswith(_PASSED)}
REFUSED = {n: b for n, b in ALL.items() if n not in DRIPPING and n not in PASSED}


@pytest.fixture
def ollama() -> Any:
    """Yield a server that answers the gateway's own readings well."""
    with server.ollama("mid-a:latest") as made:
        made.where = lambda method, path: method == "POST"
        yield made


@pytest_asyncio.fixture
async def host(
    transactional_db: None, settings: Any, ollama: Ollama, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Host]:
    settings.SWITCHER_OPEN_GATEWAY = True
    monkeypatch.setattr(relay, "SILENCE_TIMEOUT_S", SILENCE_S)
    yield await in_thread(add_host, "north-1", ollama.url)
    await relay.close()


@pytest.mark.parametrize("bad", REFUSED.values(), ids=REFUSED)
async def test_a_bad_answer_is_an_error_in_openais_style(
    host: Host, ollama: Ollama, bad: Bad
) -> None:
    ollama.bad = bad
    exchange = await ask().end()
    assert exchange.status >= 400
    assert exchange.headers["content-type"] == "application/json"
    assert exchange.json()["error"]["message"]
    assert len(exchange.body) < 2000
    assert inflight.in_flight(host.pk) == 0


@pytest.mark.parametrize("name", [*SOME, "half a surrogate", "models that are null"])
async def test_a_bad_answer_to_a_reading_of_the_gateway_is_an_error_too(
    host: Host, ollama: Ollama, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Without a copy of the active model, it reads what the model's name means (fact 23)."""
    monkeypatch.setattr(host_calls, "LIST_TIMEOUT_S", SILENCE_S)
    ollama.bad, ollama.where = ALL[name], lambda method, path: path == "/api/tags"
    exchange = await ask().end()
    assert exchange.status in (502, 503, 504)
    assert exchange.json()["error"]["message"]
    assert set(ollama.asked) == {"GET /api/tags"}


@pytest.mark.parametrize("bad", PASSED.values(), ids=PASSED)
async def test_any_json_object_is_relayed_as_json(host: Host, ollama: Ollama, bad: Bad) -> None:
    ollama.bad = bad
    exchange = await ask().end()
    assert exchange.status in (200, 500, 503)
    assert exchange.headers["content-type"] == "application/json"
    assert exchange.body.startswith(b"{")


@pytest.mark.parametrize("name", DRIPPING)
async def test_a_dripping_answer_ends_when_its_client_disconnects(
    host: Host, ollama: Ollama, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(relay, "SILENCE_TIMEOUT_S", 60.0)
    ollama.bad = ALL[name]
    exchange = ask()
    await until_async(ollama.raw.dripping.is_set)
    exchange.disconnect()
    await exchange.end()
    assert exchange.status in (0, 200)
    assert inflight.in_flight(host.pk) == 0
    await until_async(ollama.raw.client_went.is_set)


async def test_a_hung_host_is_a_504(host: Host, ollama: Ollama) -> None:
    ollama.bad = ALL["accepts and never answers"]
    exchange = await ask().end()
    assert exchange.status == 504
    assert "north-1: http://127.0.0.1:" in exchange.json()["error"]["message"]
    assert "sent nothing for" in exchange.json()["error"]["message"]


async def test_a_foreign_error_page_is_not_relayed(host: Host, ollama: Ollama) -> None:
    """At our address it would look like our own."""
    ollama.bad = ALL["HTML as it calls itself"]
    exchange = await ask().end()
    assert exchange.status == 502
    assert b"<html" not in exchange.body


async def test_reading_an_endless_answer_stops_at_the_size_limit(
    host: Host, ollama: Ollama
) -> None:
    ollama.bad = HUGE["100 MB of JSON"]
    await ask().end()
    assert ollama.bytes_poured < relay.MAX_REPLY_BYTES + 10_000_000


async def test_a_redirect_reaches_no_other_host(host: Host, ollama: Ollama) -> None:
    with server.ollama() as other:
        ollama.bad = server.redirects(f"{other.url}/v1/chat/completions")
        exchange = await ask().end()
        assert (exchange.status, other.raw.connections) == (502, 0)


async def test_a_stream_that_falls_silent_ends_with_an_error_event(
    host: Host, ollama: Ollama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SILENCE_TIMEOUT_S", 2.0)  # the first event is to come in time
    ollama.bad = server.then_silent(EVENTS + b'data: {"choices": [{"delta": {}}]}\n\n')
    exchange = await ask(STREAM).end()
    assert exchange.status == 200
    first, last = exchange.events()
    assert first == {"choices": [{"delta": {}}]}
    assert "sent nothing for" in last["error"]["message"]


# --- translated replies -----------------------------------------------------------


@pytest_asyncio.fixture
async def with_options(host: Host) -> Host:
    """Return the host with runner options in its profile, so that replies are translated
    (fact 12).
    """
    await in_thread(set_active, host, Spec("", "mid-a", options={"num_ctx": 8192}))
    return host


def wrong_chats() -> dict[str, bytes]:
    good = {"message": {"content": "Hi"}, "done": True}
    deep = b'{"message": ' + b"[" * 90_000
    chats = [
        good | {"message": ["Hi"]},
        good | {"message": {"tool_calls": [7]}},
        good | {"message": {"tool_calls": 7}},
        good | {"prompt_eval_count": "many"},
        {"error": None},
        [],
        None,
        17,
    ]
    made = {json.dumps(c): json.dumps(c).encode() for c in chats}
    infinite = b'{"message": {"content": "Hi"}, "done": true, "eval_count": Infinity}'
    return made | {"deep": deep, "infinite": infinite, "invalid": b'{"message": "\xff"}'}


@pytest.mark.parametrize("chat", wrong_chats().values(), ids=wrong_chats())
async def test_a_malformed_reply_is_a_502(with_options: Host, ollama: Ollama, chat: bytes) -> None:
    ollama.bad = says(json_answer(chat))
    exchange = await ask().end()
    assert exchange.status == 502
    assert exchange.json()["error"]["code"] == "upstream_failed"


@pytest.mark.parametrize("chat", wrong_chats().values(), ids=wrong_chats())
async def test_a_malformed_line_ends_a_stream_with_an_error(
    with_options: Host, ollama: Ollama, chat: bytes
) -> None:
    good = b'{"message": {"content": "Hel"}, "done": false}\n'
    ollama.bad = says(LINES + good + chat + b"\n")
    exchange = await ask(STREAM | {"stream_options": {"include_usage": True}}).end()
    first, *_, last = exchange.events()
    assert first["choices"][0]["delta"]["content"] == "Hel"
    assert last["error"]["code"] == "upstream_failed"


async def test_a_line_without_an_end_is_not_buffered(with_options: Host, ollama: Ollama) -> None:
    ollama.bad = pours(LINES, b"x" * 65536)
    exchange = await ask(STREAM).end()
    assert exchange.status == 502
    assert ollama.bytes_poured < 20_000_000


async def test_after_a_malformed_line_nothing_more_is_read(
    with_options: Host, ollama: Ollama
) -> None:
    ollama.bad = drips(LINES + b"<html>\n", b" ")
    exchange = await ask(STREAM).end()
    assert exchange.status == 502
