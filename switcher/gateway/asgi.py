"""The gateway: `/chat/completions` in OpenAI's shape, answered by the host's active model.

A bare ASGI application, not a Django view: measured with 64 clients and a chunk each millisecond,
a view passes less than half as many requests and adds a quarter of a second to each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any
from urllib.parse import parse_qs

from switcher.gateway import answers, body, pump, translate
from switcher.gateway.answers import Message, Receive, Refusal, Send
from switcher.gateway.body import Gone, Wanted
from switcher.gateway.routing import on_route, read
from switcher.gateway.who import Caller, caller_of, check_may, check_own
from switcher.ollama import relay
from switcher.ollama.errors import OllamaError, TimedOut
from switcher.queries.api import Active, Route

log = logging.getLogger(__name__)

COMPLETIONS = frozenset({"/chat/completions", "/v1/chat/completions"})
MODELS = "/v1/models"
NOWHERE = (
    "No model is active on {host}. Choose one on the board, or: "
    'curl -X POST …/ollama/models/switch -d \'{{"model": "…"}}\''
)


async def app(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
    """Serve one HTTP request."""
    begun = False

    async def watched_send(message: Message) -> None:
        nonlocal begun
        begun = True
        await send(message)

    try:
        await _serve(scope, receive, watched_send)
    except Gone:
        return
    except Refusal as refusal:
        await answers.refuse(send, refusal)
    except Exception:
        log.exception("the gateway failed on %s", scope["path"])
        if begun:
            raise
        await answers.refuse(send, Refusal(500, "internal", "Switchboard failed. See its log."))


async def _serve(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
    caller = caller_of(scope)
    check_own(caller)
    path = scope["path"]
    if path in COMPLETIONS:
        _check_method(caller, "POST")
        await check_may(caller)
        wanted = body.parse(await body.read(receive, caller.headers.get("content-length", "")))
        await _while_connected(receive, _complete(_host(scope, caller), wanted, send))
    elif path == MODELS:
        _check_method(caller, "GET")
        await check_may(caller)
        await _while_connected(receive, _list_models(_host(scope, caller), send))
    else:
        raise Refusal(404, "unknown_path", f"There is no {path} here.")


def _check_method(caller: Caller, method: str) -> None:
    if caller.method != method:
        text = f"This address takes {method}."
        raise Refusal(405, "method_not_allowed", text, headers=[("allow", method)])


def _host(scope: Mapping[str, Any], caller: Caller) -> str:
    """The host that the client names, or nothing for the default one."""
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    named = query.get("host") or [caller.headers.get("x-switchboard-host", "")]
    return str(named[0])


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work until it is done or the client has gone, which ends the host's work with it.
    Raises Gone."""
    task = asyncio.create_task(work)
    watch = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _complete(name: str, wanted: Wanted, send: Send) -> None:
    async with on_route(name) as now:
        if now.active is None:
            raise Refusal(503, "no_active_model", NOWHERE.format(host=now.host))
        try:
            await _relay(now, now.active, wanted, send)
        except OllamaError as exc:
            status = 504 if isinstance(exc, TimedOut) else 502
            raise Refusal(status, "upstream_failed", f"{now.host}: {exc.text}") from exc


async def _relay(now: Route, active: Active, wanted: Wanted, send: Send) -> None:
    headers = [("x-switchboard-model", active.model)]
    if active.spec.runner_options:
        chat = translate.to_chat(wanted.values, active.model, active.spec)
        usage = wanted.values.get("stream_options")
        answer = translate.Answer(active.model, isinstance(usage, dict) and bool(usage))
        async with relay.post(now.base_url, "/api/chat", answers.dump(chat)) as up:
            await pump.translated(up, answer, send, headers)
    else:
        path = "/v1/chat/completions"
        async with relay.post(now.base_url, path, wanted.for_model(active.model)) as up:
            await pump.pass_through(up, send, headers)


async def _list_models(name: str, send: Send) -> None:
    active = (await read(name)).active
    listed = {"object": "list", "data": [_model(active)] if active else []}
    await answers.whole(send, 200, pump.JSON, answers.dump(listed))


def _model(active: Active) -> dict[str, Any]:
    since = int(active.since.timestamp()) if active.since else 0
    return {"id": active.model, "object": "model", "created": since, "owned_by": "library"}
