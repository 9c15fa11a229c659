"""Keeps the connection of a stream open while its reply does not begin.

A request may wait minutes for a switch or for a model to load, and a proxy in front of the gateway
closes a connection on which nothing comes (nginx after 60 s, others sooner). So after FIRST_AFTER_S
the head of the stream is sent, and then something that means nothing:

- In Anthropic's streams: its event `ping`.
- In other server-sent events: a comment, a line that begins with a colon, which clients have to
  ignore (https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream).
- In lines of JSON: a space. It becomes the beginning of the first line, where JSON allows white
  space (RFC 8259, 2). An empty line would not do: Ollama's own clients parse each line as JSON.

Afterwards the status is 200 and can no longer tell of an error, which comes as the end of the
stream, in the form in which the host would report it there. A reply that is not streamed gets no
such signs, because its client could not be told of an error then.
"""

from __future__ import annotations

import asyncio
import json
from functools import partial

from switcher.gateway.endpoints import ApiStyle, StreamTerminator
from switcher.gateway.proxy_request import ProxyRequest
from switcher.gateway.response import SSE_TYPE, to_event
from switcher.gateway.stream_errors import error_ending

FIRST_AFTER_S = 5.0  # a short wait keeps its status and its headers
INTERVAL_S = 5.0
LINES_TYPE = "application/x-ndjson"
SIGNS = {
    ApiStyle.OLLAMA: (LINES_TYPE, b" "),
    ApiStyle.OPENAI: (SSE_TYPE, b": waiting\n\n"),
    ApiStyle.ANTHROPIC: (SSE_TYPE, b"event: ping\n" + to_event({"type": "ping"})),
}


class SignsOfLife:
    """Sends signs from FIRST_AFTER_S on until the response starts or `stop` is called.

    Until then it costs no task, only a timer: most replies begin sooner. Anthropic's clients get
    signs after the start too, as they do from Anthropic: nothing comes while a tool call is being
    generated. Other streams are passed on as they come, and a part may end within an event.
    """

    def __init__(self, request: ProxyRequest) -> None:
        self._request = request
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._parts_seen = 0
        self._loop = asyncio.get_running_loop()
        if request.streams and request.endpoint.terminator is not StreamTerminator.ANY:
            self._timer = self._loop.call_later(FIRST_AFTER_S, self._begin)
            request.response.before_start = self._reply_begins

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._send(), name="signs-of-life")

    async def _send(self) -> None:
        response, endpoint = self._request.response, self._request.endpoint
        content_type, sign = SIGNS[endpoint.style]
        await response.open_early(
            content_type, partial(late_ending, endpoint.style, endpoint.terminator)
        )
        while True:
            await response.write(sign)
            await asyncio.sleep(INTERVAL_S)

    async def _reply_begins(self) -> None:
        await self.stop()
        if self._request.endpoint.style is ApiStyle.ANTHROPIC:
            self._timer = self._loop.call_later(INTERVAL_S, self._look)

    def _look(self) -> None:
        """Send a sign if nothing else was sent since the last look."""
        response = self._request.response
        if response.is_over:
            return
        is_sending = self._task is not None and not self._task.done()
        if response.parts == self._parts_seen and not is_sending:
            self._task = asyncio.create_task(self._send_between_parts(), name="signs-of-life")
        self._parts_seen = response.parts
        self._timer = self._loop.call_later(INTERVAL_S, self._look)

    async def _send_between_parts(self) -> None:
        if not self._request.response.is_over:
            await self._request.response.write(SIGNS[ApiStyle.ANTHROPIC][1])
            self._parts_seen = self._request.response.parts

    async def stop(self) -> None:
        """Send nothing more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def late_ending(style: ApiStyle, terminator: StreamTerminator, status: int, body: bytes) -> bytes:
    """Return what ends a stream whose head was sent before this whole reply was known."""
    if status == 200 and style is ApiStyle.OLLAMA:
        return body + b"\n"
    if status != 200 and style is ApiStyle.ANTHROPIC:
        return b"event: error\ndata: " + body + b"\n\n"
    try:
        error = json.loads(body)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError):
        text = "The host did not stream its answer."
    return error_ending(style, terminator, b"", b"", str(text))
