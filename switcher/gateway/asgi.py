"""The gateway: OpenAI's and Ollama's addresses, answered by what is active on a host.

A bare ASGI application, not a Django view: measured with 64 clients and a chunk each millisecond,
a view passes less than half as many requests and adds a quarter of a second to each.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

from switcher.gateway import answers, body, lists
from switcher.gateway.answers import GatewayError, Message, Receive, Send, Watched
from switcher.gateway.auth import Caller, admit, caller_of, check_own
from switcher.gateway.body import LEFT, Gone, ParsedRequest
from switcher.gateway.endpoints import (
    ANSWERED,
    LISTS,
    MANAGE,
    ONE_MODEL,
    SHOW,
    Endpoint,
    is_blob,
    shape_of,
)
from switcher.gateway.forward import pass_on
from switcher.gateway.meter import RequestUsage
from switcher.gateway.route_cache import table
from switcher.gateway.routing import find
from switcher.queries.keys import KeyFacts

log = logging.getLogger(__name__)


async def app(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
    """Serve one HTTP request."""
    watched = Watched(send)
    shape = shape_of(scope["path"])
    try:
        await _serve(scope, receive, watched)
    except Gone:
        return
    except GatewayError as refusal:
        await answers.refuse(send, refusal, shape)
    except Exception:
        log.exception("the gateway failed on %s", scope["path"])
        if watched.begun:
            raise
        failed = GatewayError(500, "internal", "Switchboard failed. See its log.")
        await answers.refuse(send, failed, shape)


async def _serve(scope: Mapping[str, Any], receive: Receive, send: Watched) -> None:
    caller = caller_of(scope)
    check_own(caller)
    path = scope["path"]
    work = _work(scope, caller, receive, send)
    if work is None:
        raise GatewayError(404, "unknown_path", f"There is no {path} here.")
    await work


def _work(
    scope: Mapping[str, Any], caller: Caller, receive: Receive, send: Watched
) -> Coroutine[Any, Any, None] | None:
    path, host = scope["path"], _host(scope, caller)
    if path in ANSWERED:
        return _answer(caller, host, ANSWERED[path], receive, send)
    if path in LISTS or path.startswith(ONE_MODEL):
        return _list(caller, host, path, receive, send)
    if path == SHOW:
        return _show(caller, host, receive, send)
    if path in MANAGE or is_blob(path):
        return _manage(caller, host, path, receive, send)
    return None


async def _answer(
    caller: Caller, host: str, endpoint: Endpoint, receive: Receive, send: Watched
) -> None:
    _check_method(caller, "POST")
    key = await admit(caller)
    wanted = await _read(caller, receive)
    with _metered(key) as tally:
        await _while_connected(receive, pass_on(host, endpoint, wanted, send, tally))


@contextmanager
def _metered(key: KeyFacts | None) -> Iterator[RequestUsage]:
    """Hold a request to its key's limits and count it. That its client left is no error. Raises
    Refusal 429."""
    tally, meter = RequestUsage(key), table().meter
    meter.enter(key, asyncio.get_running_loop().time())
    try:
        yield tally
    except Gone:
        raise
    except Exception:
        tally.failed = True
        raise
    finally:
        meter.leave(tally)


async def _list(caller: Caller, host: str, path: str, receive: Receive, send: Send) -> None:
    _check_method(caller, "GET", "HEAD")
    key = await admit(caller)
    route = await find(host, key)
    with _metered(key):
        await _while_connected(receive, lists.answer(route, path, send, key))


async def _show(caller: Caller, host: str, receive: Receive, send: Send) -> None:
    _check_method(caller, "POST")
    key = await admit(caller)
    wanted = await _read(caller, receive)
    route = await find(host, key)
    with _metered(key):
        await _while_connected(receive, lists.show(route, wanted, send, key))


async def _manage(caller: Caller, host: str, path: str, receive: Receive, send: Send) -> None:
    _check_method(caller, *([MANAGE[path]] if path in MANAGE else ["POST", "HEAD"]))
    key = await admit(caller, manage=True)
    route = await find(host, key)
    sent = _Body(receive)
    with _metered(key):
        work = lists.manage(route, caller.method, path, sent.parts(), send)
        await _while_connected(sent.after, work)


class _Body:
    """A body as it comes: a model's file is larger than any memory."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = asyncio.Event()

    async def parts(self) -> AsyncIterator[bytes]:
        """Raises Gone."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Gone
            yield message.get("body", b"")
            more = message.get("more_body", False)
        self._ended.set()

    async def after(self) -> Message:
        """What comes once all of it was read."""
        await self._ended.wait()
        return await self._receive()


async def _read(caller: Caller, receive: Receive) -> ParsedRequest:
    return body.parse(await body.read(receive, caller.headers.get("content-length", "")))


def _check_method(caller: Caller, *methods: str) -> None:
    if caller.method not in methods:
        text = f"This address takes {' or '.join(methods)}."
        headers = [("allow", ", ".join(methods))]
        raise GatewayError(405, "method_not_allowed", text, headers=headers)


def _host(scope: Mapping[str, Any], caller: Caller) -> str:
    """The host that the client names, or nothing for the default one."""
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
    named = query.get("host") or [caller.headers.get("x-switchboard-host", "")]
    return str(named[0])


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work until it is done or the client has gone, which ends the host's work with it.
    Raises Gone."""
    task = asyncio.current_task()
    assert task is not None
    watch = asyncio.create_task(_cancel_when_gone(receive, task))
    try:
        await work
    except asyncio.CancelledError:
        if watch.done() and not watch.cancelled() and task.uncancel() == 0:
            raise Gone from None
        raise
    finally:
        watch.cancel()


async def _cancel_when_gone(receive: Receive, task: asyncio.Task[Any]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel(LEFT)
