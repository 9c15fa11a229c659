"""A host's answer on its way to the client: whole where it is whole, else as it comes.

Nothing ends silently. What breaks before its first byte is a 502; what breaks later, or stops
without having been done (fact 10), ends with an error in the caller's shape.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from switcher.gateway import answers, broken
from switcher.gateway.answers import Headers, Refusal, Send
from switcher.gateway.endpoints import Ending, Endpoint, Shape
from switcher.gateway.meter import LOOK_BACK, Tally
from switcher.gateway.translate import MOST_LINE, NOT_OLLAMAS, Answer
from switcher.ollama.errors import BadAnswer, NotDone, OllamaError, TimedOut
from switcher.ollama.relay import Upstream

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
JSON = "application/json"
# Between two parts of an answer. The first may take longer: a model may have to be loaded for it.
BETWEEN_S = 120.0
HEAD = 4096  # bytes at the start of a stream that tell whose it is
_NO_CHOICES = b'"choices":[]'
_STOPPED = "The model stopped before it had ended its answer."


async def pass_through(
    up: Upstream, endpoint: Endpoint, send: Send, headers: Headers, tally: Tally, counted: bool
) -> None:
    """An answer that is in the caller's shape already, byte for byte. `counted`: but for the event
    with the tokens' count, which we had asked for and the client had not."""
    if not up.streams or up.status != 200:
        whole = await up.whole()
        _check_json(up, whole)
        tally.read_whole(whole)
        await answers.whole(send, up.status, JSON, whole, headers)
        return
    ending = _Ending(endpoint.ending)
    parts = ending.watch(up.parts())
    if counted:
        parts = _without_usage(parts, tally)
    try:
        stream = _stream(parts, ending, endpoint.shape, up.content_type, send, headers)
        tally.failed = await stream
    finally:
        tally.read_tokens(ending.tail)
        ending.count(tally)


def _check_json(up: Upstream, body: bytes) -> None:
    """A page of somebody else's is not passed on as ours."""
    if up.media_type != JSON or not body.lstrip().startswith(b"{"):
        raise BadAnswer(f"The host answered {up.status} with something that is not JSON.")


async def _without_usage(parts: AsyncIterator[bytes], tally: Tally) -> AsyncIterator[bytes]:
    """The events without the one that has no choices but the usage. What is not a whole event yet
    waits for its rest, with which the client could do nothing either."""
    rest = b""
    async for part in parts:
        whole, end, rest = (rest + part).rpartition(b"\n\n")
        if _NO_CHOICES in whole:
            events = (whole + end).split(b"\n\n")
            tally.read_tokens(b"".join(e for e in events if _NO_CHOICES in e))
            kept = b"\n\n".join(e for e in events if _NO_CHOICES not in e)
        else:
            kept = whole + end
        if len(rest) > MOST_LINE:  # what has no end is no event of Ollama's
            kept, rest = kept + rest, b""
        if kept:
            yield kept
    if rest:
        yield rest


async def translated(
    up: Upstream, answer: Answer, send: Send, headers: Headers, tally: Tally
) -> None:
    """An answer of Ollama's own address, in OpenAI's shape."""
    if up.streams and up.status == 200:
        ending = _Ending(Ending.DONE_EVENT, answer)
        parts = _in_events(up, answer)
        try:
            tally.failed = await _stream(parts, ending, Shape.OPENAI, EVENTS, send, headers)
        finally:
            tally.read_tokens(answer.last)
            ending.count(tally)
        return
    body = await up.whole()
    tally.read_whole(body)
    try:
        told = json.loads(body)
        if up.status != 200:
            raise Refusal(up.status, "upstream_refused", str(told["error"]))
        answer.check(told)
        made = answer.whole(told)
    except NOT_OLLAMAS as exc:
        raise BadAnswer("The host answered with something that is not Ollama's.") from exc
    await answers.whole(send, 200, JSON, answers.dump(made), headers)


class _Ending:
    """Whether a stream ended as it should."""

    def __init__(self, ending: Ending, answer: Answer | None = None) -> None:
        self._kind = ending
        self._marks = ending.value
        self._piece = broken.PIECES.get(ending, b"\n")
        self._answer = answer
        self._head = b""  # the first of what came
        self.tail = b""  # the last of it
        self._seen = False
        self._pieces = 0

    async def watch(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Look at what passes."""
        async for part in parts:
            self._head = self._head or part[:HEAD]
            self._pieces += part.count(self._piece)
            looked_at = self.tail + part
            self._seen = self._seen or any(mark in looked_at for mark in self._marks)
            self.tail = looked_at[-LOOK_BACK:]
            yield part

    def trouble(self) -> str:
        if self._answer is not None:
            return self._answer.error or ("" if self._answer.done else _STOPPED)
        return "" if self._seen else _STOPPED

    def count(self, tally: Tally) -> None:
        """The host tells the tokens at the end: of what was cut the pieces are counted."""
        if not self._seen:
            tally.tokens_out = max(tally.tokens_out, self._pieces)

    def lost(self, shape: Shape, trouble: str) -> bytes:
        """What is sent after a stream that did not end well; nothing, if the host told it."""
        if broken.was_told(shape, self.tail):
            return b""
        end = b"\n" if shape is Shape.OLLAMA else b"\n\n"
        # The last event or line may have been cut.
        gap = b"" if not self.tail or self.tail.endswith(end) else end
        return gap + broken.lost(shape, self._kind, self._head, self.tail, trouble)


async def _in_events(up: Upstream, answer: Answer) -> AsyncIterator[bytes]:
    async for part in up.parts():
        events = answer.feed(part)
        if events:
            yield events
        if answer.error:
            return


async def _stream(
    parts: AsyncIterator[bytes],
    ending: _Ending,
    shape: Shape,
    content_type: str,
    send: Send,
    headers: Headers,
) -> bool:
    """Pump until the end; gives whether it was not the end that it should have had. Raises
    OllamaError only while nothing was sent."""
    begun = False
    trouble = ""
    try:
        while (part := await _next(parts, begun)) is not None:
            if not begun:
                await answers.start(send, 200, content_type, headers)
                begun = True
            await answers.part(send, part)
        trouble = ending.trouble()
    except OllamaError as exc:
        if not begun:
            raise
        trouble = exc.text
    if not begun:
        raise NotDone(trouble or _STOPPED)
    await answers.part(send, ending.lost(shape, trouble) if trouble else b"", more=False)
    return bool(trouble)


async def _next(parts: AsyncIterator[bytes], begun: bool) -> bytes | None:
    """The next part, None at the end. Its time is measured here and not over the whole stream:
    a client that reads slowly is no fault of the host. Raises TimedOut."""
    try:
        async with asyncio.timeout(BETWEEN_S if begun else None):
            return await anext(parts, None)
    except TimeoutError:
        raise TimedOut(f"The host sent nothing for {BETWEEN_S:.0f} s.") from None
