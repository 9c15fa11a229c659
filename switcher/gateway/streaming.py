"""Relays a host's reply to the client: whole, or part by part if it is a stream.

No reply ends silently. One that breaks before its first byte becomes a 502. One that breaks later,
or stops before it is done (fact 10), ends with an error in the style of the client's API.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing

from switcher.gateway.cut_prompts import note_cut_prompt
from switcher.gateway.disconnects import DISCONNECT_REASON, ClientDisconnected
from switcher.gateway.errors import GatewayError
from switcher.gateway.proxy_request import ProxyRequest
from switcher.gateway.response import JSON_TYPE, SSE_TYPE, to_json
from switcher.gateway.stream_filters import STOPPED_EARLY, StreamFilter, Translating, filter_for
from switcher.gateway.translate import MALFORMED, ReplyTranslator
from switcher.ollama.errors import BadAnswer, NotDone, OllamaError, TimedOut
from switcher.ollama.relay import Upstream

# A model may have to be loaded for the first part of a reply.
FIRST_PART_TIMEOUT_S = 300.0
NEXT_PART_TIMEOUT_S = 120.0
# Ollama sends a tool call only when all of it has been generated, such as a whole file to write.
TOOL_CALL_TIMEOUT_S = 600.0
# How long a client may take to accept a part: a stalled client keeps the model busy, and a switch
# would wait for it.
CLIENT_TIMEOUT_S = 120.0
SERVER_STOPS = "Switchboard stopped during this answer. Send the request again."


async def relay_unchanged(upstream: Upstream, request: ProxyRequest) -> None:
    """Relay a reply that already has the client's API style, byte for byte.

    Only a usage event that the client did not ask for is left out. Raises OllamaError before the
    response has started, ClientDisconnected.
    """
    if upstream.streams and upstream.status == 200:
        await _relay_stream(upstream, filter_for(request), request, upstream.content_type)
        return
    body = await upstream.read()
    if upstream.status == 200 and request.endpoint.task == "transcribe":
        content_type = upstream.content_type  # the client chooses: text, srt, vtt
        await request.response.send_whole(200, body, request.reply_headers, content_type)
        return
    # Do not relay somebody else's error page as ours.
    if upstream.media_type != JSON_TYPE or not body.lstrip().startswith(b"{"):
        raise upstream.not_json_error()
    request.usage.read_whole(body)
    if upstream.status == 200:
        note_cut_prompt(request)
    await request.response.send_whole(upstream.status, body, request.reply_headers)


async def relay_translated(
    upstream: Upstream, request: ProxyRequest, translator: ReplyTranslator
) -> None:
    """Relay a reply of Ollama's own API in the client's style. Raises as `relay_unchanged`."""
    if upstream.streams and upstream.status == 200:
        await _relay_stream(upstream, Translating(translator, request), request, SSE_TYPE)
        return
    body = await upstream.read()
    request.usage.read_whole(body)
    try:
        reply = json.loads(body)
        if upstream.status != 200:
            raise GatewayError(upstream.status, "upstream_refused", str(reply["error"]))
        translator.check(reply)
        translated = translator.whole(reply)
    except MALFORMED as exc:
        raise BadAnswer("The host's answer is not one of Ollama's.") from exc
    note_cut_prompt(request)
    await request.response.send_whole(200, to_json(translated), request.reply_headers)


async def _relay_stream(
    upstream: Upstream, stream: StreamFilter, request: ProxyRequest, content_type: str
) -> None:
    """Relay a stream to its end. Raises OllamaError only before the response has started."""
    response, style = request.response, request.endpoint.style
    problem = ""
    try:
        await _StreamPump(upstream, stream, request, content_type).run()
        problem = stream.problem()
    except OllamaError as exc:
        if not response.started:
            raise
        problem = exc.text
    except asyncio.CancelledError as exc:
        if response.started and exc.args != (DISCONNECT_REASON,):
            await response.write(stream.error_ending(style, SERVER_STOPS), more=False)
        raise
    finally:
        stream.count_tokens()
        note_cut_prompt(request)
    rest = stream.rest()
    if not response.started:
        if problem or not rest:
            raise NotDone(problem or STOPPED_EARLY)
        await response.start_stream(content_type, request.reply_headers)
    request.usage.failed = bool(problem)
    await response.write(rest + stream.error_ending(style, problem), more=False)


class _StreamPump:
    """Moves one stream from the host to the client, and limits how long either may take.

    This is a hot path: with 64 clients, one more generator or timer adds a tenth to the cost of
    each part.
    """

    def __init__(
        self, upstream: Upstream, stream: StreamFilter, request: ProxyRequest, content_type: str
    ) -> None:
        self._upstream, self._stream, self._response = upstream, stream, request.response
        self._head = (content_type, request.reply_headers)
        self._loop = asyncio.get_running_loop()
        self._deadline = asyncio.timeout(None)
        self._waits_for_client = False  # otherwise for the host
        self._timeout_s = FIRST_PART_TIMEOUT_S
        has_tools = bool(request.body.values.get("tools"))
        self._next_timeout_s = TOOL_CALL_TIMEOUT_S if has_tools else NEXT_PART_TIMEOUT_S
        self._since = self._loop.time()
        self._timer: asyncio.TimerHandle

    async def run(self) -> None:
        """Relay until the host's stream ends. Raises OllamaError, ClientDisconnected."""
        try:
            async with self._deadline:
                self._check_time()
                await self._pump()
        except TimeoutError:
            if self._waits_for_client:
                raise ClientDisconnected from None
            raise TimedOut(f"The host sent nothing for {self._timeout_s:.0f} s.") from None
        finally:
            self._timer.cancel()

    async def _pump(self) -> None:
        async with aclosing(self._upstream.parts()) as parts:
            async for part in parts:
                passed = self._stream.feed(part)
                if passed:
                    self._waits_for_client, self._timeout_s = True, CLIENT_TIMEOUT_S
                    self._since = self._loop.time()
                    if not self._response.started:
                        await self._response.start_stream(*self._head)
                    await self._response.write(passed)
                if self._stream.stops_early:
                    return
                self._waits_for_client, self._timeout_s = False, self._next_timeout_s
                self._since = self._loop.time()

    def _check_time(self) -> None:
        """Stop a wait that takes too long. One timer serves the whole stream."""
        left = self._timeout_s - (self._loop.time() - self._since)
        if left > 0:
            delay = min(left, NEXT_PART_TIMEOUT_S, CLIENT_TIMEOUT_S)
            self._timer = self._loop.call_later(delay, self._check_time)
        else:
            self._deadline.reschedule(self._loop.time())
