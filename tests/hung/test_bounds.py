"""How much of a huge answer is read, and how much memory that takes."""

from __future__ import annotations

import tracemalloc

import pytest

from switcher.ollama import calls
from switcher.ollama.client import Client
from switcher.ollama.errors import OllamaError
from tests.hung import server
from tests.hung.server import HUGE, WRONG, Bad, body, rows

# Bytes that the system buffers on both sides of a connection.
BUFFERS = 10_000_000
HUNDRED_MB = {n: b for n, b in HUGE.items() if "a redirect" not in n}


@pytest.fixture(autouse=True)
def _time_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("switcher.ollama.client.QUICK_TIMEOUT_S", 20.0)


@pytest.mark.parametrize("bad", HUGE.values(), ids=HUGE)
def test_reading_stops_at_the_size_limit(bad: Bad) -> None:
    with server.ollama() as ollama:
        ollama.bad = bad
        client = Client(ollama.url)
        with pytest.raises(OllamaError):
            client.resident()
        client.close()
        assert ollama.bytes_poured < calls.MAX_BYTES + BUFFERS


def most(text: bytes, end: bytes) -> bytes:
    """Repeat a text as often as fits into an answer."""
    inside = calls.MAX_BYTES - 100
    return b'{"models": [' + text * (inside // len(text)) + end + b"]}"


AMPLIFIED = {
    "millions of objects": WRONG["millions of parts"],
    "millions of numbers": body(most(b"1.5,", b"1.5")),
    "millions of words": body(most(b'"ab",', b'"ab"')),
    "nested deeply": WRONG["nested deeply"],
    "one word": rows('"' + "x" * 7_900_000 + '"'),
    **{n: b for n, b in HUGE.items() if n in ("100 MB of JSON", "chunks without an end")},
}


@pytest.mark.parametrize("bad", AMPLIFIED.values(), ids=AMPLIFIED)
def test_an_answer_takes_a_bounded_multiple_of_its_size_in_memory(bad: Bad) -> None:
    with server.ollama() as ollama:
        ollama.bad = bad
        client = Client(ollama.url)
        tracemalloc.start()
        try:
            with pytest.raises(OllamaError):
                client.resident()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            client.close()
    assert peak < 20 * calls.MAX_BYTES, f"{peak / 1e6:.0f} MB"
