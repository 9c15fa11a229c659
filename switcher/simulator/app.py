"""The HTTP application: routes, and the faults that hit a request as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from switcher.simulator import control, native, openai
from switcher.simulator.generation import ConnectionCut, Refused
from switcher.simulator.host import Host
from switcher.simulator.native import HOST

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(host: Host) -> web.Application:
    """The whole server of one host."""
    app = web.Application(middlewares=[_answers, _faults], client_max_size=64 * 2**20)
    app[HOST] = host
    get, post = app.router.add_get, app.router.add_post
    get("/", native.root)  # answers HEAD as well
    get("/api/version", native.version)
    get("/api/tags", native.tags)
    get("/api/ps", native.ps)
    post("/api/show", native.show)
    post("/api/generate", native.generate)
    post("/api/chat", native.chat)
    post("/api/embed", native.embed)
    post("/api/embeddings", native.embed)
    post("/api/copy", native.copy)
    post("/api/create", native.create)
    post("/api/pull", native.pull)
    app.router.add_delete("/api/delete", native.delete)
    get("/v1/models", openai.models)
    get("/v1/models/{name:.+}", openai.model)
    post("/v1/chat/completions", openai.chat)
    post("/v1/completions", openai.completions)
    post("/v1/embeddings", openai.embeddings)
    post("/v1/responses", openai.responses)
    get("/_sim/state", control.state)
    post("/_sim/faults", control.add_fault)
    app.router.add_delete("/_sim/faults", control.clear_faults)
    post("/_sim/acts", control.act)
    return app


@web.middleware
async def _answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors in the shape of the path they come from; unknown paths in plain text."""
    error = openai.error if request.path.startswith("/v1/") else native.error
    try:
        return await handler(request)
    except Refused as exc:
        return error(exc.text, exc.status)
    except ConnectionCut:
        return _break(request)
    except web.HTTPNotFound:
        return web.Response(text="404 page not found", status=404)
    except web.HTTPMethodNotAllowed:
        return web.Response(text="405 method not allowed", status=405)


@web.middleware
async def _faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    host, path = request.app[HOST], request.path
    if path.startswith("/_sim/"):
        return await handler(request)
    if host.faults.take("hang", path=path):
        await asyncio.Event().wait()
    if fault := host.faults.take("delay", path=path):
        await asyncio.sleep(fault.seconds)
    if host.faults.take("html", path=path):
        return web.Response(
            text="<html><body>Welcome to nginx!</body></html>", content_type="text/html"
        )
    if fault := host.faults.take("error", path=path):
        return native.error(fault.message, fault.status)
    if host.faults.take("redirect", path=path):
        return web.Response(status=302, headers={"Location": "/elsewhere"})
    if host.faults.take("huge", path=path):
        return await _huge(request)
    half, drip = host.faults.take("half", path=path), host.faults.take("drip", path=path)
    response = await handler(request)
    if isinstance(response, web.Response) and (half or drip):
        return await _badly_sent(request, response, drip.seconds if drip else 0.0)
    return response


async def _huge(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for _ in range(1024):
        await response.write(b" " * 65536)
    return response


async def _badly_sent(
    request: web.Request, answer: web.Response, seconds: float
) -> web.StreamResponse:
    """Half of it and then nothing, or all of it a byte at a time."""
    body = bytes(answer.body) if isinstance(answer.body, bytes | bytearray) else b"{}"
    response = web.StreamResponse(headers={"Content-Type": answer.content_type})
    response.content_length = len(body)
    await response.prepare(request)
    if seconds:
        for n in range(len(body)):
            await response.write(body[n : n + 1])
            await asyncio.sleep(seconds)
        return response
    await response.write(body[: len(body) // 2])
    return _break(request)


def _break(request: web.Request) -> web.Response:
    """Close the connection under the answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
