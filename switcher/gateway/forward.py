"""One request to a model, passed on to its host: once more where that is safe."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from switcher.gateway import streaming
from switcher.gateway.answers import GatewayError, Headers, Watched
from switcher.gateway.body import ParsedRequest
from switcher.gateway.completions import not_mapped, with_options
from switcher.gateway.endpoints import Ending, Endpoint, Shape
from switcher.gateway.meter import RequestUsage
from switcher.gateway.model_selection import choose
from switcher.gateway.routing import SendPermit, on_route
from switcher.ollama import relay
from switcher.ollama.errors import BrokeOff, CallCut, OllamaError, TimedOut, Unreachable
from switcher.ollama.relay import Upstream
from switcher.queries.gates import Choice, Route

AGAIN_S = 0.2
# An answer that comes whole has its first byte when all of it was made.
WHOLE_S = relay.SILENT_S
MAX_NAMED = 20  # of what was dropped
_PLAIN = re.compile(r"[\w.-]{1,60}", re.ASCII)


async def pass_on(
    host: str, endpoint: Endpoint, wanted: ParsedRequest, send: Watched, tally: RequestUsage
) -> None:
    """Answer the request from the model that this host's policy gives. Raises Refusal.

    A connection that breaks before anything was sent is tried once more: nothing but time was
    spent on it. It goes to whatever is active by then, as any request that comes by then.
    """
    try:
        try:
            await _once(host, endpoint, wanted, send, tally)
        except (Unreachable, BrokeOff):
            if send.begun:
                raise
            await asyncio.sleep(AGAIN_S)
            await _once(host, endpoint, wanted, send, tally)
    except TimedOut as exc:
        raise GatewayError(504, "upstream_timed_out", f"{tally.host}: {exc.text}") from exc
    except OllamaError as exc:
        raise GatewayError(502, "upstream_failed", f"{tally.host}: {exc.text}") from exc
    finally:
        tally.failed = tally.failed or send.status >= 400


async def _once(
    host: str, endpoint: Endpoint, wanted: ParsedRequest, send: Watched, tally: RequestUsage
) -> None:
    """Raises OllamaError or Refusal."""
    while True:
        async with on_route(host, tally, wanted.size) as (route, leave):
            choice = choose(route, wanted.values.get("model"), tally.key)
            tally.model = choice.model
            try:
                return await _try(route, leave, choice, endpoint, wanted, send, tally)
            except CallCut:
                continue  # a switch came before it was written: where does it go now?


def _headers(choice: Choice, dropped: Sequence[str]) -> Headers:
    """What policy did to the request is said in the answer."""
    rows = [("x-switchboard-model", choice.model)]
    if dropped:
        rows.append(("x-switchboard-dropped", _named(dropped)))
    return rows


def _named(dropped: Sequence[str]) -> str:
    """The names as a header can carry them: they are the client's, who may write anything there."""
    plain = [name for name in dropped if _PLAIN.fullmatch(name)][:MAX_NAMED]
    return ", ".join([*plain, "others"] if len(plain) < len(dropped) else plain)


async def _try(
    route: Route,
    leave: SendPermit,
    choice: Choice,
    endpoint: Endpoint,
    wanted: ParsedRequest,
    send: Watched,
    tally: RequestUsage,
) -> None:
    dropped = wanted.dropped()
    first_s = streaming.FIRST_S if wanted.streams(endpoint.streams) else WHOLE_S
    if endpoint.shape is Shape.OPENAI and choice.spec.runner_options:
        path, body, answer = with_options(endpoint, wanted.values, choice)
        headers = _headers(choice, dropped + not_mapped(endpoint, wanted.values))
        async with _ask(route, leave, path, body, first_s) as up:
            await streaming.translated(up, answer, send, headers, tally)
        return
    streams = endpoint.ending is Ending.DONE_EVENT and wanted.streams(endpoint.streams)
    count = streams and not wanted.wants_usage()
    body = wanted.for_model(choice.model, choice.spec.runner_options, count)
    async with _ask(route, leave, endpoint.path, body, first_s) as up:
        await streaming.pass_through(up, endpoint, send, _headers(choice, dropped), tally, count)


def _ask(
    route: Route, leave: SendPermit, path: str, body: bytes, head_s: float
) -> AbstractAsyncContextManager[Upstream]:
    return relay.ask(route.base_url, "POST", path, body, leave=leave, head_s=head_s)
