"""The HTTP application: its routes, and the faults that affect a whole request."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from ollama_simulator import control, native, openai, responses, talking
from ollama_simulator.generation import ConnectionCut
from ollama_simulator.gojson import BadBody, parse
from ollama_simulator.host import HOST, Host
from ollama_simulator.server import Refused
from ollama_simulator.shapes import error, plain
from ollama_simulator.versions import PATHS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PAGE = "<!doctype html><html><body><h1>502 Bad Gateway</h1>nginx</body></html>"


def make_app(host: Host) -> web.Application:
    """Return the web application for one host."""
    app = web.Application(middlewares=[_journal, _answers, _faults], client_max_size=64 * 2**20)
    app[HOST] = host
    app.on_response_prepare.append(_bare_headers)
    _add_native(app.router)
    _add_v1(app.router)
    app.router.add_get("/_sim/state", control.state)
    app.router.add_post("/_sim/faults", control.add_fault)
    app.router.add_delete("/_sim/faults", control.clear_faults)
    app.router.add_post("/_sim/acts", control.act)
    return app


def _add_native(router: web.UrlDispatcher) -> None:
    for path, told in (("/", native.root), ("/api/version", native.version)):
        router.add_get(path, told)  # answers HEAD as well
    router.add_get("/api/tags", native.tags)
    router.add_get("/api/ps", native.ps, allow_head=False)
    router.add_post("/api/show", native.show)
    router.add_post("/api/generate", talking.generate)
    router.add_post("/api/chat", talking.chat)
    router.add_post("/api/embed", talking.embed)
    router.add_post("/api/embeddings", talking.embeddings)
    router.add_post("/api/copy", native.copy)
    router.add_post("/api/create", native.create)
    router.add_post("/api/pull", native.pull)
    router.add_post("/api/push", native.push)
    router.add_head("/api/blobs/{digest}", native.find_blob)
    router.add_post("/api/blobs/{digest}", native.create_blob)
    router.add_delete("/api/delete", native.delete)


def _add_v1(router: web.UrlDispatcher) -> None:
    router.add_get("/v1/models", openai.models, allow_head=False)
    router.add_get("/v1/models/{name}", openai.model, allow_head=False)
    router.add_post("/v1/chat/completions", openai.chat)
    router.add_post("/v1/completions", openai.completions)
    router.add_post("/v1/embeddings", openai.embeddings)
    router.add_post("/v1/responses", responses.responses)


async def _bare_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Remove the headers that name the server software."""
    response.headers.popall("Server", None)


@web.middleware
async def _journal(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Record each request in order: its time and, once it has ended, its outcome."""
    if request.path.startswith("/_sim/"):
        return await handler(request)
    host = request.app[HOST]
    row = host.tick().machine.note("call", method=request.method, path=request.path)
    row |= await _told(request)
    try:
        response = await handler(request)
        row["status"] = response.status
        return response
    finally:
        row["seconds"] = round(host.now() - row["at"], 4)


async def _told(request: web.Request) -> dict[str, Any]:
    """Return the members of the body that tests may check; never the prompt."""
    try:
        body = parse((await request.read()).decode(errors="replace"))
    except BadBody:
        return {}
    if not isinstance(body, dict):
        return {}
    kept = ("model", "keep_alive", "options", "stream", "source", "destination")
    return {name: body[name] for name in kept if name in body}


@web.middleware
async def _answers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn exceptions into errors in the format of the path's API; plain text for unknown paths
    (fact 25).
    """
    try:
        return await handler(request)
    except Refused as exc:
        return error(exc, request.path)
    except ConnectionCut:
        return _break(request)
    except web.HTTPNotFound:
        return _elsewhere(request) or plain("404 page not found", 404)
    except web.HTTPMethodNotAllowed:
        return plain("405 method not allowed", 405)


def _elsewhere(request: web.Request) -> web.Response | None:
    """Redirect a path that is wrong only in its slashes, such as `/api/tags/` or `//api/tags`."""
    doubled = "//" in request.path
    path = re.sub("/+", "/", request.path).rstrip("/")
    if path == request.path or not _serves(request.app.router, request.method, path or "/"):
        return None
    moved = 301 if request.method == "GET" and not doubled else 307
    return web.Response(status=moved, headers={"Location": path or "/"})


def _serves(router: web.UrlDispatcher, method: str, path: str) -> bool:
    """Return whether there is a route. (`router.resolve` needs a copy of the request, which cannot
    be made once the body was read.)"""
    for resource in router.resources():
        info = resource.get_info()
        pattern = info.get("pattern")
        fits = info.get("path") == path or (pattern is not None and pattern.fullmatch(path))
        if fits and any(route.method == method for route in resource):
            return True
    return False


@web.middleware
async def _faults(request: web.Request, handler: Handler) -> web.StreamResponse:
    faults, path = request.app[HOST].server.faults, request.path
    if path.startswith("/_sim/"):
        return await handler(request)
    if PATHS.get(path, ()) > request.app[HOST].server.config.version:
        raise web.HTTPNotFound
    if faults.take("hang", path=path):
        await asyncio.Event().wait()
    if delay := faults.take("delay", path=path):
        await asyncio.sleep(delay["seconds"])
    if faults.take("html", path=path):
        return web.Response(text=PAGE, content_type="text/html")
    if wrong := faults.take("error", path=path):
        raise Refused(wrong["message"], wrong["status"])
    if elsewhere := faults.take("redirect", path=path):
        return web.Response(status=302, headers={"Location": elsewhere["location"]})
    if huge := faults.take("huge", path=path):
        return await _huge(request, huge["bytes"])
    half, drip = faults.take("half", path=path), faults.take("drip", path=path)
    response = await handler(request)
    if isinstance(response, web.Response) and (half or drip):
        return await _badly_sent(request, response, drip["seconds"] if drip else None)
    return response


async def _huge(request: web.Request, size: int) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for begin in range(0, size, 65_536):
        await response.write(b" " * min(65_536, size - begin))
    return response


async def _badly_sent(
    request: web.Request, answer: web.Response, seconds: float | None
) -> web.StreamResponse:
    """Send half of the response and then nothing, or all of it one byte at a time."""
    body = bytes(answer.body) if isinstance(answer.body, bytes | bytearray) else b"{}"
    response = web.StreamResponse(status=answer.status)
    response.headers["Content-Type"] = answer.headers.get("Content-Type", "text/plain")
    response.content_length = len(body)
    await response.prepare(request)
    if seconds is None:
        await response.write(body[: len(body) // 2])
        return _break(request, flushed=True)
    for n in range(len(body)):
        await response.write(body[n : n + 1])
        await asyncio.sleep(seconds)
    return response


def _break(request: web.Request, flushed: bool = False) -> web.Response:
    """Close the connection during the response; with `flushed`, first send what was written."""
    if request.transport is not None:
        if flushed:
            request.transport.close()
        else:
            request.transport.abort()
    return web.Response()
