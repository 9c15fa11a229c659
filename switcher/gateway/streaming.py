"""A host's answer on its way to the client: whole where it is whole, else as it comes.

Nothing ends silently. What breaks before its first byte is a 502; what breaks later, or stops
without having been done (fact 10), ends with an error in the caller's shape.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

from switcher.gateway import answers, stream_errors
from switcher.gateway.answers import GatewayError, Headers, Watched
from switcher.gateway.body import LEFT, Gone
from switcher.gateway.endpoints import Ending, Endpoint, Shape
from switcher.gateway.meter import LOOK_BACK, RequestUsage
from switcher.gateway.translate import MAX_LINE, NOT_OLLAMAS, Answer
from switcher.ollama.errors import BadAnswer, NotDone, OllamaError, TimedOut
from switcher.ollama.relay import Upstream

EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
JSON = "application/json"
# Between two parts of an answer. The first may take longer: a model may have to be loaded for it.
BETWEEN_S = 120.0
FIRST_S = 300.0
# For a client to take a part: who does not keeps the model busy, which a switch waits for.
TAKE_S = 120.0
HEAD = 4096  # bytes at the start of a stream that tell whose it is
_NO_CHOICES = b'"choices":[]'
ENDING = "Switchboard is stopped in the middle of the answer. Ask again."
_STOPPED = "The model stopped before it had ended its answer."


async def pass_through(
    up: Upstream,
    endpoint: Endpoint,
    send: Watched,
    headers: Headers,
    tally: RequestUsage,
    counted: bool,
) -> None:
    """An answer that is in the caller's shape already, byte for byte. `counted`: but for the event
    with the tokens' count, which we had asked for and the client had not."""
    if not up.streams or up.status != 200:
        whole = await up.whole()
        _check_json(up, whole)
        tally.read_whole(whole)
        await answers.whole(send, up.status, JSON, whole, headers)
        return
    lines = endpoint.ending is Ending.DONE_LINE
    kind = _WithoutUsage if counted else _Lines if lines else _AsItIs
    seen = kind(endpoint.ending, tally)
    await _stream(up, seen, endpoint.shape, up.content_type, send, headers)


def _check_json(up: Upstream, body: bytes) -> None:
    """A page of somebody else's is not passed on as ours."""
    if up.media_type != JSON or not body.lstrip().startswith(b"{"):
        raise BadAnswer(f"The host answered {up.status} with something that is not JSON.")


async def translated(
    up: Upstream, answer: Answer, send: Watched, headers: Headers, tally: RequestUsage
) -> None:
    """An answer of Ollama's own address, in OpenAI's shape."""
    if up.streams and up.status == 200:
        await _stream(up, _InEvents(answer, tally), Shape.OPENAI, EVENTS, send, headers)
        return
    body = await up.whole()
    tally.read_whole(body)
    try:
        told = json.loads(body)
        if up.status != 200:
            raise GatewayError(up.status, "upstream_refused", str(told["error"]))
        answer.check(told)
        made = answer.whole(told)
    except NOT_OLLAMAS as exc:
        raise BadAnswer("The host answered with something that is not Ollama's.") from exc
    await answers.whole(send, 200, JSON, answers.dump(made), headers)


class _AsItIs:
    """What becomes of a stream's parts on their way: nothing. It is looked at for whether it ended
    as it should, and for its count of tokens."""

    def __init__(self, ending: Ending, tally: RequestUsage) -> None:
        self._kind = ending
        self._marks = ending.value
        self._piece = stream_errors.PIECES.get(ending, b"\n")
        self.tally = tally
        self._head = b""  # the first of what came
        self._tail = b"\n"  # the last of it
        self._seen = False
        self._pieces = 0

    def feed(self, part: bytes) -> bytes:
        """What to send for the next part; perhaps nothing."""
        self._head = self._head or part[:HEAD]
        self._pieces += part.count(self._piece)
        looked_at = self._tail + part
        self._seen = self._seen or any(mark in looked_at for mark in self._marks)
        self._tail = looked_at[-LOOK_BACK:]
        return part

    @property
    def ends_early(self) -> bool:
        """Whether nothing of what may follow is of use."""
        return False

    def rest(self) -> bytes:
        """What was kept back, at the end."""
        return b""

    def trouble(self) -> str:
        """What was wrong with its end, if anything."""
        return "" if self._seen else _STOPPED

    def count(self) -> None:
        """The host tells the tokens at the end: of what was cut the pieces are counted."""
        self.tally.read_tokens(self._tail)
        if not self._seen:
            self.tally.tokens_out = max(self.tally.tokens_out, self._pieces)

    def lost(self, shape: Shape, trouble: str) -> bytes:
        """What is sent after a stream that did not end well; nothing, if the host told it."""
        if not trouble or stream_errors.was_told(shape, self._tail):
            return b""
        end = b"\n" if shape is Shape.OLLAMA else b"\n\n"
        # The last event or line may have been cut.
        gap = b"" if self._tail.endswith(end) else end
        return gap + stream_errors.lost(shape, self._kind, self._head, self._tail, trouble)


class _WithoutUsage(_AsItIs):
    """The events without the one that has no choices but the usage. What is not a whole event yet
    waits for its rest, with which the client could do nothing either."""

    _kept_back = b""

    def feed(self, part: bytes) -> bytes:
        super().feed(part)
        whole, end, rest = (self._kept_back + part).rpartition(b"\n\n")
        passed = whole + end
        if _NO_CHOICES in whole:
            events = passed.split(b"\n\n")
            self.tally.read_tokens(b"".join(e for e in events if _NO_CHOICES in e))
            passed = b"\n\n".join(e for e in events if _NO_CHOICES not in e)
        if len(rest) > MAX_LINE:  # what has no end is no event of Ollama's
            passed, rest = passed + rest, b""
        self._kept_back = rest
        return passed

    def rest(self) -> bytes:
        return self._kept_back


class _Lines(_AsItIs):
    """Ollama's lines, of which the last says whether it is done."""

    _line = _next_line = b""

    def feed(self, part: bytes) -> bytes:
        lines, end, rest = (self._next_line + part).rpartition(b"\n")
        if end:
            self._line = lines[lines.rfind(b"\n") + 1 :]
        self._next_line = rest[: MAX_LINE + 1]  # a longer one is no line of Ollama's
        return super().feed(part)

    def trouble(self) -> str:
        try:
            told = json.loads(self._next_line.strip() or self._line)
            self._seen = isinstance(told, dict) and told.get("done") is True
        except (ValueError, RecursionError):
            self._seen = False
        return super().trouble()


class _InEvents(_AsItIs):
    """Ollama's lines as OpenAI's events."""

    def __init__(self, answer: Answer, tally: RequestUsage) -> None:
        super().__init__(Ending.DONE_EVENT, tally)
        self._answer = answer

    def feed(self, part: bytes) -> bytes:
        return super().feed(self._answer.feed(part))

    @property
    def ends_early(self) -> bool:
        return bool(self._answer.error)

    def trouble(self) -> str:
        return self._answer.error or ("" if self._answer.done else _STOPPED)

    def count(self) -> None:
        super().count()
        self.tally.read_tokens(self._answer.last)


async def _stream(
    up: Upstream, seen: _AsItIs, shape: Shape, content_type: str, send: Watched, headers: Headers
) -> None:
    """Pump until the end. Raises OllamaError only while nothing was sent, and Gone where the
    client does not take what is sent."""
    trouble = ""
    try:
        await _Flow(up, seen, content_type, send, headers).run()
        trouble = seen.trouble()
    except OllamaError as exc:
        if not send.begun:
            raise
        trouble = exc.text
    except asyncio.CancelledError as exc:
        if send.begun and exc.args != (LEFT,):
            await answers.part(send, seen.lost(shape, ENDING), more=False)
        raise
    finally:
        seen.count()
    if not send.begun:
        raise NotDone(trouble or _STOPPED)
    seen.tally.failed = bool(trouble)
    await answers.part(send, seen.rest() + seen.lost(shape, trouble), more=False)


class _Flow:
    """One stream on its way, and how long it waits for whom. All that is done for each part counts
    here: at 64 clients a generator or a timer more is a tenth of what a part costs."""

    def __init__(
        self, up: Upstream, seen: _AsItIs, content_type: str, send: Watched, headers: Headers
    ) -> None:
        self._up, self._seen, self._send = up, seen, send
        self._head = (content_type, headers)
        self._loop = asyncio.get_running_loop()
        self._limit = asyncio.timeout(None)
        self._taken = True  # else a part is on its way to the client
        self._most_s = FIRST_S
        self._since = self._loop.time()
        self._timer: asyncio.TimerHandle

    async def run(self) -> None:
        """Until the host has no more. Raises OllamaError, TimedOut among them, and Gone."""
        try:
            async with self._limit:
                self._look()
                await self._run()
        except TimeoutError:
            if not self._taken:
                raise Gone from None
            raise TimedOut(f"The host sent nothing for {self._most_s:.0f} s.") from None
        finally:
            self._timer.cancel()

    async def _run(self) -> None:
        async with aclosing(self._up.parts()) as parts:
            async for part in parts:
                passed = self._seen.feed(part)
                if passed:
                    self._taken, self._most_s, self._since = False, TAKE_S, self._loop.time()
                    if not self._send.begun:
                        await answers.start(self._send, 200, *self._head)
                    await answers.part(self._send, passed)
                if self._seen.ends_early:
                    return
                self._taken, self._most_s, self._since = True, BETWEEN_S, self._loop.time()

    def _look(self) -> None:
        """End a wait that lasts too long: one timer for the whole stream."""
        left = self._most_s - (self._loop.time() - self._since)
        if left > 0:
            self._timer = self._loop.call_later(min(left, BETWEEN_S, TAKE_S), self._look)
        else:
            self._limit.reschedule(self._loop.time())
