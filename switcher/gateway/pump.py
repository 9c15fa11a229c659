"""A host's answer on its way to the client: whole where it is whole, else as it comes.

Nothing ends silently. What breaks before its first byte is a 502; what breaks later, or stops
without having been done (fact 10), ends with an error event.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from switcher.gateway import answers
from switcher.gateway.answers import Headers, Refusal, Send
from switcher.gateway.translate import NOT_OLLAMAS, Answer
from switcher.ollama.errors import BadAnswer, NotDone, OllamaError
from switcher.ollama.relay import Upstream

EVENTS = "text/event-stream"
JSON = "application/json"
_LOOK_BACK = 64
_STOPPED = "The model stopped before it had ended its answer."


async def pass_through(up: Upstream, send: Send, headers: Headers) -> None:
    """An answer that is in OpenAI's shape already, byte for byte."""
    if not up.streams:
        body = await up.whole()
        _check_json(up, body)
        await answers.whole(send, up.status, JSON, body, headers)
        return
    ending = _Ending()
    await _stream(ending.watch(up.parts()), ending, up, send, headers)


def _check_json(up: Upstream, body: bytes) -> None:
    """A page of somebody else's is not passed on as ours."""
    if up.media_type != JSON or not body.lstrip().startswith(b"{"):
        raise BadAnswer(f"The host answered {up.status} with something that is not JSON.")


async def translated(up: Upstream, answer: Answer, send: Send, headers: Headers) -> None:
    """An answer of /api/chat, in OpenAI's shape."""
    if up.streams and up.status == 200:
        ending = _Ending(answer)
        await _stream(_in_events(up, answer), ending, up, send, headers)
        return
    body = await up.whole()
    try:
        chat = json.loads(body)
        if up.status != 200:
            raise Refusal(up.status, "upstream_refused", str(chat["error"]))
        if chat.get("done") is not True:
            raise NotDone(_STOPPED)
        made = answer.whole(chat)
    except NOT_OLLAMAS as exc:
        raise BadAnswer("The host answered with something that is not Ollama's.") from exc
    await answers.whole(send, 200, JSON, answers.dump(made), headers)


class _Ending:
    """Whether a stream ended as it should: with its last event, or with Ollama's `done`."""

    def __init__(self, answer: Answer | None = None) -> None:
        self._answer = answer
        self._tail = b""

    async def watch(self, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for part in parts:
            self._tail = (self._tail + part)[-_LOOK_BACK:]
            yield part

    def trouble(self) -> str:
        if self._answer is not None:
            return self._answer.error or ("" if self._answer.done else _STOPPED)
        return "" if answers.DONE.strip() in self._tail else _STOPPED

    def gap(self) -> bytes:
        """What has to come before an event of ours: the last one may have been cut in two."""
        return b"" if not self._tail or self._tail.endswith(b"\n\n") else b"\n\n"


async def _in_events(up: Upstream, answer: Answer) -> AsyncIterator[bytes]:
    async for part in up.parts():
        events = answer.feed(part)
        if events:
            yield events
        if answer.error:
            return


async def _stream(
    parts: AsyncIterator[bytes], ending: _Ending, up: Upstream, send: Send, headers: Headers
) -> None:
    """Pump until the end. Raises OllamaError only while nothing was sent."""
    begun = False
    trouble = ""
    try:
        async for part in parts:
            if not begun:
                await answers.start(send, up.status, EVENTS, headers)
                begun = True
            await answers.part(send, part)
        trouble = ending.trouble()
    except OllamaError as exc:
        trouble = exc.text
    if not begun:
        raise NotDone(trouble or _STOPPED)
    if trouble:
        lost = answers.error(502, "upstream_failed", trouble)
        await answers.part(send, ending.gap() + answers.event(lost))
    await answers.part(send, b"", more=False)
