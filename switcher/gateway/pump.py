"""A host's answer on its way to the client: whole where it is whole, else as it comes.

Nothing ends silently. What breaks before its first byte is a 502; what breaks later, or stops
without having been done (fact 10), ends with an error in the caller's shape.
"""

from __future__ import annotations

import json
from contextlib import aclosing

from switcher.gateway import answers, broken
from switcher.gateway.answers import Headers, Refusal, Send
from switcher.gateway.endpoints import Ending, Endpoint, Shape
from switcher.gateway.meter import LOOK_BACK, Tally
from switcher.gateway.translate import MOST_LINE, NOT_OLLAMAS, Answer
from switcher.ollama.errors import BadAnswer, NotDone, OllamaError
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
    seen = (_WithoutUsage if counted else _AsItIs)(endpoint.ending, tally)
    await _stream(up, seen, endpoint.shape, up.content_type, send, headers)


def _check_json(up: Upstream, body: bytes) -> None:
    """A page of somebody else's is not passed on as ours."""
    if up.media_type != JSON or not body.lstrip().startswith(b"{"):
        raise BadAnswer(f"The host answered {up.status} with something that is not JSON.")


async def translated(
    up: Upstream, answer: Answer, send: Send, headers: Headers, tally: Tally
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
            raise Refusal(up.status, "upstream_refused", str(told["error"]))
        answer.check(told)
        made = answer.whole(told)
    except NOT_OLLAMAS as exc:
        raise BadAnswer("The host answered with something that is not Ollama's.") from exc
    await answers.whole(send, 200, JSON, answers.dump(made), headers)


class _AsItIs:
    """What becomes of a stream's parts on their way: nothing. It is looked at for whether it ended
    as it should, and for its count of tokens."""

    def __init__(self, ending: Ending, tally: Tally) -> None:
        self._kind = ending
        self._marks = ending.value
        self._piece = broken.PIECES.get(ending, b"\n")
        self.tally = tally
        self._head = b""  # the first of what came
        self._tail = b""  # the last of it
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
        if not trouble or broken.was_told(shape, self._tail):
            return b""
        end = b"\n" if shape is Shape.OLLAMA else b"\n\n"
        # The last event or line may have been cut.
        gap = b"" if not self._tail or self._tail.endswith(end) else end
        return gap + broken.lost(shape, self._kind, self._head, self._tail, trouble)


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
        if len(rest) > MOST_LINE:  # what has no end is no event of Ollama's
            passed, rest = passed + rest, b""
        self._kept_back = rest
        return passed

    def rest(self) -> bytes:
        return self._kept_back


class _InEvents(_AsItIs):
    """Ollama's lines as OpenAI's events."""

    def __init__(self, answer: Answer, tally: Tally) -> None:
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
    up: Upstream, seen: _AsItIs, shape: Shape, content_type: str, send: Send, headers: Headers
) -> None:
    """Pump until the end. Raises OllamaError only while nothing was sent.

    Of the code here all that is done for each part counts: at 64 clients a further generator or
    timer is a tenth of what a part costs.
    """
    begun, trouble = False, ""
    try:
        async with aclosing(up.parts(BETWEEN_S)) as parts:
            async for part in parts:
                passed = seen.feed(part)
                if passed and not begun:
                    await answers.start(send, 200, content_type, headers)
                    begun = True
                if passed:
                    await answers.part(send, passed)
                if seen.ends_early:
                    break
        trouble = seen.trouble()
    except OllamaError as exc:
        if not begun:
            raise
        trouble = exc.text
    finally:
        seen.count()
    if not begun:
        raise NotDone(trouble or _STOPPED)
    seen.tally.failed = bool(trouble)
    await answers.part(send, seen.rest() + seen.lost(shape, trouble), more=False)
