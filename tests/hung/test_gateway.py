"""The gateway before a host that hangs or talks nonsense."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from switcher.concurrency.threads import in_thread
from switcher.domain import inflight
from switcher.domain.specs import Spec
from switcher.models import Host
from switcher.ollama import relay
from tests.gateway.conftest import ask, set_active
from tests.hung import server
from tests.hung.conftest import add_host
from tests.hung.server import ALL, HUGE, Bad, Ollama, drips, pours, says
from tests.ollama.rawserver import json_answer
from tests.until import until_async

SILENT_S = 0.5
STREAM = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
LINES = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n"
# What never falls silent lasts until its client has had enough, as any long answer does.
DRIPPING = [name for name in ALL if name.startswith(("drips", "says 100"))]
# A JSON object is passed on, whatever it says and with its status: it is the client's business.
_PASSED = (
    *("sizes", "names", "a time", "invalid", "half a surr", "no models", "models that"),
    *("nested deeply in", "millions", "500 with JSON", "503", "an error that is no text"),
)

PASSED = {name: bad for name, bad in ALL.items() if name.startswith(_PASSED)}
REFUSED = {n: b for n, b in ALL.items() if n not in DRIPPING and n not in PASSED}


@pytest.fixture
def ollama() -> Any:
    with server.ollama("mid-a:latest") as made:
        yield made


@pytest_asyncio.fixture
async def host(
    transactional_db: None, settings: Any, ollama: Ollama, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Host]:
    settings.SWITCHER_OPEN_GATEWAY = True
    monkeypatch.setattr(relay, "SILENCE_TIMEOUT_S", SILENT_S)
    yield await in_thread(add_host, "north-1", ollama.url)
    await relay.close()


@pytest.mark.parametrize("bad", REFUSED.values(), ids=REFUSED)
async def test_what_is_no_answer_is_an_error_in_time_and_in_openais_shape(
    host: Host, ollama: Ollama, bad: Bad
) -> None:
    ollama.bad = bad
    began = time.monotonic()
    exchange = await ask().end()
    assert time.monotonic() - began < SILENT_S + 1.0
    assert exchange.status >= 400
    assert exchange.headers["content-type"] == "application/json"
    assert exchange.json()["error"]["message"]
    assert len(exchange.body) < 2000
    assert inflight.in_flight(host.pk) == 0


@pytest.mark.parametrize("bad", PASSED.values(), ids=PASSED)
async def test_what_is_json_is_passed_on_as_json_and_read_no_further(
    host: Host, ollama: Ollama, bad: Bad
) -> None:
    ollama.bad = bad
    exchange = await ask().end()
    assert exchange.status in (200, 500, 503)
    assert exchange.headers["content-type"] == "application/json"
    assert exchange.body.startswith(b"{")


@pytest.mark.parametrize("name", DRIPPING)
async def test_what_drips_ends_when_its_client_leaves(
    host: Host, ollama: Ollama, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(relay, "SILENCE_TIMEOUT_S", 60.0)
    ollama.bad = ALL[name]
    exchange = ask()
    await until_async(ollama.raw.dripping.is_set)
    exchange.leave()
    await exchange.end()
    assert exchange.status in (0, 200)
    assert inflight.in_flight(host.pk) == 0
    await until_async(ollama.raw.client_went.is_set)


async def test_a_hung_host_is_a_504_that_says_so(host: Host, ollama: Ollama) -> None:
    ollama.bad = ALL["accepts and never answers"]
    exchange = await ask().end()
    assert exchange.status == 504
    assert "north-1: http://127.0.0.1:" in exchange.json()["error"]["message"]
    assert "sent nothing for" in exchange.json()["error"]["message"]


async def test_a_page_of_somebody_elses_is_not_passed_on(host: Host, ollama: Ollama) -> None:
    """On our own address it would be ours."""
    ollama.bad = ALL["HTML as it calls itself"]
    exchange = await ask().end()
    assert exchange.status == 502
    assert b"<html" not in exchange.body


async def test_no_more_than_a_bound_is_read_of_an_answer_without_an_end(
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
    host: Host, ollama: Ollama
) -> None:
    ollama.bad = server.then_silent(EVENTS + b'data: {"choices": []}\n\n')
    exchange = await ask(STREAM).end()
    assert exchange.status == 200
    first, last = exchange.events()
    assert first == {"choices": []}
    assert "sent nothing for" in last["error"]["message"]


# --- where answers are translated -----------------------------------------------------------


@pytest_asyncio.fixture
async def with_options(host: Host) -> Host:
    """Its profile has runner options: the gateway reads each answer itself (fact 12)."""
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
async def test_a_wrong_answer_is_a_502_not_a_fault_of_ours(
    with_options: Host, ollama: Ollama, chat: bytes
) -> None:
    ollama.bad = says(json_answer(chat))
    exchange = await ask().end()
    assert exchange.status == 502
    assert exchange.json()["error"]["code"] == "upstream_failed"


@pytest.mark.parametrize("chat", wrong_chats().values(), ids=wrong_chats())
async def test_a_wrong_line_ends_a_stream_with_an_error(
    with_options: Host, ollama: Ollama, chat: bytes
) -> None:
    good = b'{"message": {"content": "Hel"}, "done": false}\n'
    ollama.bad = says(LINES + good + chat + b"\n")
    exchange = await ask(STREAM | {"stream_options": {"include_usage": True}}).end()
    first, *_, last = exchange.events()
    assert first["choices"][0]["delta"]["content"] == "Hel"
    assert last["error"]["code"] == "upstream_failed"


async def test_a_line_without_an_end_is_not_kept_for_ever(
    with_options: Host, ollama: Ollama
) -> None:
    ollama.bad = pours(LINES, b"x" * 65536)
    exchange = await ask(STREAM).end()
    assert exchange.status == 502
    assert ollama.bytes_poured < 20_000_000


async def test_after_a_wrong_line_nothing_more_is_waited_for(
    with_options: Host, ollama: Ollama
) -> None:
    ollama.bad = drips(LINES + b"<html>\n", b" ")
    exchange = await ask(STREAM).end()
    assert exchange.status == 502
