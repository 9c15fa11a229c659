"""The `/api` of the server: shapes, statuses and texts as recorded from a real one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from switcher.simulator import replies
from switcher.simulator.catalog import full_name, make_manifest, valid_name
from switcher.simulator.durations import BadDuration, keep_alive_s
from switcher.simulator.generation import Refused, Reply, Say, check_model, run_reply
from switcher.simulator.host import Host, Work

VERSION = "0.0.0-simulated"
HOST = web.AppKey("host", Host)
Body = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(
        text=json.dumps(value),
        status=status,
        content_type="application/json",
        charset="utf-8",
    )


def error(text: str, status: int) -> web.Response:
    return answer({"error": text}, status)


async def read_body(request: web.Request) -> Body:
    """The body as JSON, whatever its content type; the server's own words for what is none."""
    raw = (await request.read()).decode("utf-8", "replace").strip()
    if not raw:
        raise Refused("missing request body", 400)
    try:
        value = json.loads(raw)
    except ValueError as exc:
        bad = raw[1:2] if raw.startswith("{") else raw[:1]
        text = f"invalid character '{bad}' looking for beginning of object key string"
        raise Refused(text, 400) from exc
    if not isinstance(value, dict):
        raise Refused("json: cannot unmarshal into Go value of type api.GenerateRequest", 400)
    return value


def now_text() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000Z"


def read_keep_alive(body: Body) -> float | None:
    if body.get("keep_alive") is None:
        return None
    try:
        return keep_alive_s(body["keep_alive"])
    except BadDuration as exc:
        raise Refused(str(exc), 400) from exc


def details(embeds: bool) -> Body:
    family = "nomic-bert" if embeds else "llama"
    return {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family],
        "parameter_size": "8.0B",
        "quantization_level": "Q4_K_M",
    }


async def version(request: web.Request) -> web.Response:
    return answer({"version": VERSION})


async def root(request: web.Request) -> web.Response:
    return web.Response(text="Ollama is running", content_type="text/plain", charset="utf-8")


async def tags(request: web.Request) -> web.Response:
    host = request.app[HOST]
    rows = [
        {
            "name": name,
            "model": name,
            "modified_at": host.wall(host.catalog.changed_at[name]),
            "size": manifest.size,
            "digest": manifest.digest,
            "details": details(manifest.embeds)
            | {"context_length": 131072, "embedding_length": 4096},
            "capabilities": ["embedding"] if manifest.embeds else ["completion", "tools"],
        }
        for name, manifest in host.catalog.names.items()
    ]
    return answer({"models": rows})


async def ps(request: web.Request) -> web.Response:
    host = request.app[HOST]
    host.tick()
    rows = [
        {
            "name": full_name(r.name),
            "model": full_name(r.name),
            "size": r.size,
            "digest": r.manifest.digest,
            "details": details(r.manifest.embeds),
            "expires_at": host.wall(expires),
            "size_vram": r.size_vram,
            "context_length": r.num_ctx,
        }
        for r, expires in host.machine.listed()
    ]
    return answer({"models": rows})


async def show(request: web.Request) -> web.Response:
    host, body = request.app[HOST], await read_body(request)
    name = str(body.get("model") or body.get("name") or "")
    manifest = host.catalog.find(name) if name else None
    if manifest is None:
        return error(f"model '{full_name(name)}' not found", 404)
    return answer(
        {
            "modelfile": f"FROM {name}\nPARAMETER num_ctx {manifest.num_ctx}\n",
            "parameters": f"num_ctx                        {manifest.num_ctx}",
            "template": "{{ .Prompt }}",
            "details": details(manifest.embeds),
            "model_info": {
                "general.architecture": "llama",
                "general.parameter_count": manifest.size * 2,
                "llama.context_length": 131072,
            },
            "capabilities": ["embedding"] if manifest.embeds else ["completion", "tools"],
            "modified_at": host.wall(host.catalog.changed_at[full_name(name)]),
        }
    )


async def copy(request: web.Request) -> web.Response:
    host, body = request.app[HOST], await read_body(request)
    source, destination = str(body.get("source", "")), str(body.get("destination", ""))
    if not valid_name(destination):
        return error(f'destination "{destination}" is invalid', 400)
    if not host.catalog.copy(source, destination, host.now()):
        return error(f'model "{source}" not found', 404)
    return web.Response(status=200)


async def delete(request: web.Request) -> web.Response:
    host, body = request.app[HOST], await read_body(request)
    name = str(body.get("model") or body.get("name") or "")
    if not host.catalog.delete(name):
        return error(f"model '{name}' not found", 404)
    return web.Response(status=200)


async def create(request: web.Request) -> web.Response:
    host, body = request.app[HOST], await read_body(request)
    name, source = str(body.get("model", "")), str(body.get("from", ""))
    manifest = host.catalog.find(source) if source else None
    if manifest is None:
        return error(f"model '{source}' not found", 404)
    params = body.get("parameters") or {}
    ctx = params.get("num_ctx") if isinstance(params, dict) else None
    seed = f"{name} from {manifest.digest} {params}"
    fresh = make_manifest(seed, manifest.size, manifest.embeds, ctx or manifest.num_ctx)
    host.catalog.add(name, fresh, host.now())
    return answer({"status": "success"})


async def pull(request: web.Request) -> web.StreamResponse:
    """Knows what it has; a tag on the disk can be pulled again, and is then up to date."""
    host, body = request.app[HOST], await read_body(request)
    name = str(body.get("model") or body.get("name") or "")
    if host.catalog.find(name) is None:
        lines = [
            {"status": "pulling manifest"},
            {"error": "pull model manifest: file does not exist"},
        ]
    else:
        lines = [{"status": s} for s in ("pulling manifest", "verifying sha256 digest", "success")]
    if body.get("stream") is False:
        return answer(lines[-1], 200 if "status" in lines[-1] else 500)
    return await stream_lines(request, _each(lines))


async def _each(lines: list[Body]) -> AsyncIterator[Body]:
    for line in lines:
        yield line
        await asyncio.sleep(0)


async def stream_lines(request: web.Request, lines: AsyncIterator[Body]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    async for line in lines:
        await response.write(json.dumps(line).encode() + b"\n")
    await response.write_eof()
    return response


def _generate_line(reply: Reply, text: str) -> Body:
    return {"model": reply.asked, "created_at": now_text(), "response": text, "done": False}


def _chat_line(reply: Reply, text: str) -> Body:
    message: Body = {"role": "assistant", "content": text}
    return {"model": reply.asked, "created_at": now_text(), "message": message, "done": False}


def _last(reply: Reply, line: Body) -> Body:
    if reply.broken:  # fact 10: a 200 that is no success
        return line
    return {**line, "done": True, "done_reason": reply.reason, **reply.figures()}


async def generate(request: web.Request) -> web.StreamResponse:
    body = await read_body(request)
    say = Say(prompt=str(body.get("prompt") or ""), as_json=body.get("format") is not None)
    empty = not body.get("prompt") and not body.get("images")
    return await _talk(request, body, say, empty, _generate_line, "generate")


async def chat(request: web.Request) -> web.StreamResponse:
    body = await read_body(request)
    messages = [m for m in body.get("messages") or [] if isinstance(m, dict)]
    say = Say(
        prompt=replies.text_of(messages[-1]) if messages else "",
        as_json=body.get("format") is not None,
        tool=_tool(body) if replies.wants_tool(messages) else None,
    )
    return await _talk(request, body, say, not messages, _chat_line, "chat")


def _tool(body: Body) -> Body | None:
    tools = body.get("tools") or []
    function = tools[0].get("function", {}) if tools and isinstance(tools[0], dict) else None
    return None if function is None else {"name": function.get("name", ""), "arguments": {}}


async def _talk(
    request: web.Request,
    body: Body,
    say: Say,
    empty: bool,
    line: Callable[[Reply, str], Body],
    what: str,
) -> web.StreamResponse:
    """Load, unload or answer, as the request means: one flow for generate and chat."""
    host = request.app[HOST]
    name = str(body.get("model") or "")
    keep_alive = read_keep_alive(body)
    manifest = check_model(host, name)
    if empty and keep_alive == 0:  # fact 6
        host.tick()
        host.machine.unload(manifest)
        host.tick()
        return answer(line(Reply(name), "") | {"done": True, "done_reason": "unload"})
    if manifest.embeds:
        raise Refused(f'"{name}" does not support {what}', 400)
    options = body.get("options") if isinstance(body.get("options"), dict) else {}
    assert isinstance(options, dict)
    count = 0 if empty else int(options.get("num_predict") or replies.DEFAULT_TOKENS)
    count = replies.DEFAULT_TOKENS if count < 0 else count
    work = Work(name, manifest, options, keep_alive, count)
    reply = Reply(name)
    stream = body.get("stream", True) is not False and not empty
    tokens = run_reply(host, work, say, reply)
    if not stream:
        text = "".join([t async for t in tokens])
        if empty:
            return answer(line(reply, "") | {"done": True, "done_reason": "load"})
        return answer(_with_tool(_last(reply, line(reply, text)), say))
    first = await anext(tokens, None)  # errors come as a status while there is no first token
    return await stream_lines(request, _lines(first, tokens, reply, line, say))


async def _lines(
    first: str | None,
    tokens: AsyncIterator[str],
    reply: Reply,
    line: Callable[[Reply, str], Body],
    say: Say,
) -> AsyncIterator[Body]:
    if first is not None:
        yield line(reply, first)
    async for token in tokens:
        yield line(reply, token)
    if not reply.broken:
        yield _with_tool(_last(reply, line(reply, "")), say)


def _with_tool(row: Body, say: Say) -> Body:
    if say.tool and "message" in row:
        row["message"]["tool_calls"] = [{"function": say.tool}]
    return row


async def embed(request: web.Request) -> web.Response:
    host, body = request.app[HOST], await read_body(request)
    name = str(body.get("model") or "")
    manifest = check_model(host, name)
    inputs = body.get("input", body.get("prompt", ""))
    texts = [str(t) for t in inputs] if isinstance(inputs, list) else [str(inputs)]
    options = body.get("options") if isinstance(body.get("options"), dict) else {}
    assert isinstance(options, dict)
    reply = Reply(name)
    work = Work(name, manifest, options, read_keep_alive(body), 1)
    async for _ in run_reply(host, work, Say(prompt=""), reply):
        pass
    rows = [replies.embedding(name, t) for t in texts]
    figures = reply.figures()
    kept = {k: figures[k] for k in ("total_duration", "load_duration")}
    count = sum(replies.count_tokens(t) for t in texts)
    if request.path == "/api/embeddings":
        return answer({"embedding": rows[0]})
    return answer({"model": name, "embeddings": rows, **kept, "prompt_eval_count": count})
