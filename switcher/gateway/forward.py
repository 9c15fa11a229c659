"""Forwards a request to the selected model, and retries once where that is safe."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from switcher.domain import last_answers
from switcher.domain.versions import since_of
from switcher.gateway import streaming
from switcher.gateway.anthropic_messages import to_chat
from switcher.gateway.anthropic_messages import unmapped_members as unmapped_of_message
from switcher.gateway.anthropic_replies import MessageTranslator
from switcher.gateway.anthropic_tokens import PromptSize
from switcher.gateway.capable_models import cannot
from switcher.gateway.completions import to_ollama, unmapped_members
from switcher.gateway.disconnects import DISCONNECT_REASON
from switcher.gateway.endpoints import ApiStyle, StreamTerminator
from switcher.gateway.errors import GatewayError, Headers, not_on_host
from switcher.gateway.fallback import choose_model
from switcher.gateway.proxy_request import ProxyRequest
from switcher.gateway.response import JSON_TYPE, to_json
from switcher.gateway.routing import STALE_HEADER, RoutePermit, pass_gate
from switcher.gateway.signs_of_life import SignsOfLife
from switcher.gateway.translate import ReplyTranslator
from switcher.gateway.verified_names import as_sent, renamer_for
from switcher.ollama import relay
from switcher.ollama.errors import BrokeOff, CallCut, OllamaError, TimedOut, Unreachable
from switcher.queries.gates import ModelChoice, Route

RETRY_DELAY_S = 0.2
# An unstreamed reply starts only when all of it has been generated.
WHOLE_REPLY_TIMEOUT_S = relay.SILENCE_TIMEOUT_S
MAX_NAMED = 20  # names of dropped members that the header lists
_HEADER_SAFE = re.compile(r"[\w.-]{1,60}", re.ASCII)


async def forward(request: ProxyRequest) -> None:
    """Answer a request from the model that the host's policy selects. Raises GatewayError.

    If the connection breaks before the response has started, the request is retried once: nothing
    but time was lost. The retry goes to the model that is active by then.
    """
    usage, response = request.usage, request.response
    signs = SignsOfLife(request)
    try:
        try:
            await _attempt(request)
        except (Unreachable, BrokeOff):
            if response.started:
                raise
            await asyncio.sleep(RETRY_DELAY_S)
            await _attempt(request)
    except asyncio.CancelledError as exc:
        if response.waits_open and exc.args != (DISCONNECT_REASON,):
            stopping = GatewayError(503, "stopping", streaming.SERVER_STOPS)
            await response.send_error(stopping, request.endpoint.style)
        raise
    except TimedOut as exc:
        raise GatewayError(504, "upstream_timed_out", f"{usage.host}: {exc.text}") from exc
    except OllamaError as exc:
        raise GatewayError(502, "upstream_failed", f"{usage.host}: {exc.text}") from exc
    finally:
        await signs.stop()
        usage.failed = usage.failed or response.status >= 400


async def _attempt(request: ProxyRequest) -> None:
    """Send the request once. Raises OllamaError, GatewayError."""
    usage, by_copy = request.usage, True
    while True:
        async with pass_gate(request) as permit:
            if permit.route.stale:
                request.response.add_header(STALE_HEADER)
            choice = await choose_model(request, permit.route)
            if choice is None:
                continue  # another host has a model loaded
            usage.model = choice.model
            request.loaded = permit.route.loaded(choice)
            sent = await as_sent(permit.route, choice, by_copy)
            request.response.renamer = renamer_for(sent, choice)
            try:
                return await _send(request, permit, sent)
            except CallCut:
                continue  # a switch began before the request was written: find its route again
            except _CopyMissing:
                by_copy = False


class _CopyMissing(Exception):
    """The host does not have the copy by whose name it was asked."""


async def _send(request: ProxyRequest, permit: RoutePermit, choice: ModelChoice) -> None:
    body, endpoint = request.body, request.endpoint
    if endpoint.style is ApiStyle.ANTHROPIC:
        await _send_message(request, permit, choice)
        return
    dropped, translator = body.dropped(), None
    if endpoint.style is ApiStyle.OPENAI and choice.spec.runner_options:
        path, payload, translator = to_ollama(endpoint, body.values, choice)
        dropped += unmapped_members(endpoint, body.values)
    else:
        has_usage_event = endpoint.terminator is StreamTerminator.DONE_EVENT and request.streams
        request.hide_usage = has_usage_event and not body.wants_usage()
        path = endpoint.path
        payload = body.for_model(choice.model, choice.spec.runner_options, request.hide_usage)
    request.reply_headers = _reply_headers(choice, dropped)
    await _exchange(request, permit, choice, path, payload, translator)


async def _send_message(request: ProxyRequest, permit: RoutePermit, choice: ModelChoice) -> None:
    """Send a request of Anthropic's API as a chat.

    Its clients ask any model to think. One that cannot is asked again without, as a server does
    that has this API itself.
    """
    values = request.body.values
    chat = to_chat(values, choice)
    dropped = request.body.dropped() + unmapped_of_message(values)
    translator = MessageTranslator(request.usage.model, PromptSize.of(values))
    request.reply_headers = _reply_headers(choice, dropped)
    try:
        await _exchange(request, permit, choice, "/api/chat", to_json(chat), translator)
    except GatewayError as error:
        if error.status != 400 or "think" not in str(error) or not chat.pop("think", None):
            raise
        request.reply_headers = _reply_headers(choice, [*dropped, "thinking"])
        await _exchange(request, permit, choice, "/api/chat", to_json(chat), translator)


async def _exchange(
    request: ProxyRequest,
    permit: RoutePermit,
    choice: ModelChoice,
    path: str,
    payload: bytes,
    translator: ReplyTranslator | None,
) -> None:
    """Send a body to the host, and relay its reply."""
    head_timeout_s = streaming.FIRST_PART_TIMEOUT_S if request.streams else WHOLE_REPLY_TIMEOUT_S
    async with relay.ask(
        permit.route.server,
        "POST",
        path,
        payload,
        permit=permit,
        head_timeout_s=head_timeout_s,
        content_type=request.body.content_type,
    ) as upstream:
        await _check_support(upstream, request, permit.route, choice)
        if translator is None:
            await streaming.relay_unchanged(upstream, request)
        else:
            await streaming.relay_translated(upstream, request, translator)
        active = permit.route.active
        if upstream.status == 200 and active is not None and choice.spec.name == active.name:
            last_answers.note(permit.route.host_id, active.digest, datetime.now(UTC))


async def _check_support(
    upstream: relay.Upstream, request: ProxyRequest, route: Route, choice: ModelChoice
) -> None:
    """Raise GatewayError if the host lacks the address, or the model what it needs; _CopyMissing
    if it lacks the copy of the model."""
    endpoint = request.endpoint
    may_lack = not endpoint.is_common or since_of(endpoint.path)
    if upstream.status == 404 and may_lack and upstream.media_type != JSON_TYPE:
        raise not_on_host(route.host, endpoint.path)
    if upstream.status == 404 and choice.model == choice.copy:
        raise _CopyMissing
    if upstream.status == 501 and endpoint.needs:
        raise await cannot(route, choice, endpoint.needs)


def _reply_headers(choice: ModelChoice, dropped: Sequence[str]) -> Headers:
    """Return headers that say which model answers and what was not forwarded."""
    headers = [("x-switchboard-model", choice.model)]
    if dropped:
        headers.append(("x-switchboard-dropped", _header_value(dropped)))
    return headers


def _header_value(dropped: Sequence[str]) -> str:
    """Join the names that a header can carry. They come from the client and may contain
    anything."""
    names = [name for name in dropped if _HEADER_SAFE.fullmatch(name)][:MAX_NAMED]
    return ", ".join([*names, "others"] if len(names) < len(dropped) else names)
