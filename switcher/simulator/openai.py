"""The `/v1` of the server: OpenAI's shapes over the same machine."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

from switcher.simulator import replies
from switcher.simulator.generation import Refused, Reply, Say, check_model, run_reply
from switcher.simulator.host import Work
from switcher.simulator.native import HOST, Body, read_body

_ids = itertools.count(100)
TYPES = {400: "invalid_request_error", 404: "not_found_error"}


def answer(value: Any, status: int = 200) -> web.Response:
    return web.Response(text=json.dumps(value), status=status, content_type="application/json")


def error(text: str, status: int) -> web.Response:
    kind = TYPES.get(status, "api_error")
    return answer({"error": {"message": text, "type": kind, "param": None, "code": None}}, status)


async def models(request: web.Request) -> web.Response:
    names = request.app[HOST].catalog.names
    return answer({"object": "list", "data": [_model(n) for n in names]})


async def model(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    check_model(request.app[HOST], name)
    return answer(_model(name))


def _model(name: str) -> Body:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "library"}


def _work(request: web.Request, body: Body, name: str) -> Work:
    """Fact 13: nothing under /v1 carries a keep-alive or runner options."""
    manifest = check_model(request.app[HOST], name)
    if manifest.embeds:
        raise Refused(f'"{name}" does not support chat', 400)
    limit = body.get("max_tokens") or body.get("max_completion_tokens")
    limit = limit or body.get("max_output_tokens") or replies.DEFAULT_TOKENS
    return Work(name, manifest, {}, None, int(limit))


def _usage(reply: Reply) -> Body:
    total = reply.prompt_tokens + reply.tokens
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.tokens,
        "total_tokens": total,
    }


async def chat(request: web.Request) -> web.StreamResponse:
    body = await read_body(request)
    messages = [m for m in body.get("messages") or [] if isinstance(m, dict)]
    if not messages:
        raise Refused("[] is too short - 'messages'", 400)
    name = str(body.get("model") or "")
    form = (body.get("response_format") or {}).get("type", "text")
    tool = body.get("tools") and replies.wants_tool(messages)
    say = Say(replies.text_of(messages[-1]), form != "text", _tool(body) if tool else None)
    work, reply = _work(request, body, name), Reply(name)
    tokens = run_reply(request.app[HOST], work, say, reply)
    number = next(_ids)
    if body.get("stream"):
        first = await anext(tokens, None)
        usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return await _stream(request, _chat_events(first, tokens, reply, say, number, usage))
    text = "".join([t async for t in tokens])
    message: Body = {"role": "assistant", "content": text}
    if say.tool:
        message["tool_calls"] = [_tool_call(say.tool, number)]
    finish = "tool_calls" if say.tool else reply.reason
    row = _head(reply, number, "chat.completion")
    row["choices"] = [{"index": 0, "message": message, "finish_reason": finish}]
    return answer(row | {"usage": _usage(reply)})


def _tool(body: Body) -> Body:
    function = (body["tools"][0] or {}).get("function", {})
    return {"name": function.get("name", ""), "arguments": "{}"}


def _tool_call(tool: Body, number: int) -> Body:
    return {"id": f"call_{number}", "index": 0, "type": "function", "function": tool}


def _head(reply: Reply, number: int, kind: str) -> Body:
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {
        "id": f"{prefix}-{number}",
        "object": kind,
        "created": int(time.time()),
        "model": reply.asked,
        "system_fingerprint": "fp_ollama",
    }


async def _chat_events(
    first: str | None,
    tokens: AsyncIterator[str],
    reply: Reply,
    say: Say,
    number: int,
    usage: bool,
) -> AsyncIterator[Body]:
    def event(delta: Body, finish: str | None) -> Body:
        row = _head(reply, number, "chat.completion.chunk")
        return row | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    if first is not None:
        yield event({"role": "assistant", "content": first}, None)
    async for token in tokens:
        yield event({"content": token}, None)
    if say.tool:
        calls = [_tool_call(say.tool, number)]
        yield event({"role": "assistant", "content": "", "tool_calls": calls}, None)
    yield event({}, "tool_calls" if say.tool else reply.reason)
    if usage:
        head = _head(reply, number, "chat.completion.chunk")
        yield head | {"choices": [], "usage": _usage(reply)}


async def completions(request: web.Request) -> web.StreamResponse:
    body = await read_body(request)
    name = str(body.get("model") or "")
    work, reply, number = _work(request, body, name), Reply(name), next(_ids)
    tokens = run_reply(request.app[HOST], work, Say(str(body.get("prompt") or "")), reply)
    if body.get("stream"):
        first = await anext(tokens, None)
        return await _stream(request, _text_events(first, tokens, reply, number))
    text = "".join([t async for t in tokens])
    row = _head(reply, number, "text_completion")
    row["choices"] = [{"text": text, "index": 0, "finish_reason": reply.reason}]
    return answer(row | {"usage": _usage(reply)})


async def _text_events(
    first: str | None, tokens: AsyncIterator[str], reply: Reply, number: int
) -> AsyncIterator[Body]:
    def event(text: str, finish: str | None) -> Body:
        row = _head(reply, number, "text_completion")
        return row | {"choices": [{"text": text, "index": 0, "finish_reason": finish}]}

    if first is not None:
        yield event(first, None)
    async for token in tokens:
        yield event(token, None)
    yield event("", reply.reason)


async def embeddings(request: web.Request) -> web.Response:
    host, body = request.app[HOST], await read_body(request)
    name = str(body.get("model") or "")
    manifest = check_model(host, name)
    inputs = body.get("input", "")
    texts = [str(t) for t in inputs] if isinstance(inputs, list) else [str(inputs)]
    async for _ in run_reply(host, Work(name, manifest, {}, None, 1), Say(""), Reply(name)):
        pass
    rows = [
        {"object": "embedding", "embedding": replies.embedding(name, t), "index": n}
        for n, t in enumerate(texts)
    ]
    count = sum(replies.count_tokens(t) for t in texts)
    usage = {"prompt_tokens": count, "total_tokens": count}
    return answer({"object": "list", "data": rows, "model": name, "usage": usage})


async def responses(request: web.Request) -> web.StreamResponse:
    body = await read_body(request)
    name, given = str(body.get("model") or ""), body.get("input", "")
    prompt = given if isinstance(given, str) else replies.text_of((given or [{}])[-1])
    work, reply, number = _work(request, body, name), Reply(name), next(_ids)
    tokens = run_reply(request.app[HOST], work, Say(prompt), reply)
    if body.get("stream"):
        first = await anext(tokens, None)
        return await _stream_named(request, _response_events(first, tokens, reply, number))
    return answer(_response(reply, number, "".join([t async for t in tokens])))


def _response(reply: Reply, number: int, text: str) -> Body:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item = {
        "id": f"msg_{number}",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "model": reply.asked,
        "output": [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": reply.prompt_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": reply.tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": reply.prompt_tokens + reply.tokens,
        },
    }


async def _response_events(
    first: str | None, tokens: AsyncIterator[str], reply: Reply, number: int
) -> AsyncIterator[Body]:
    texts = [first or ""]
    where = {"item_id": f"msg_{number}", "output_index": 0, "content_index": 0}
    started = _response(reply, number, "") | {"status": "in_progress", "output": []}
    yield {"type": "response.created", "sequence_number": 0, "response": started}
    kind, count = "response.output_text.delta", itertools.count(1)
    yield {"type": kind, "sequence_number": next(count), "delta": texts[0], "logprobs": []} | where
    async for token in tokens:
        texts.append(token)
        yield {"type": kind, "sequence_number": next(count), "delta": token, "logprobs": []} | where
    whole = _response(reply, number, "".join(texts))
    yield {"type": "response.completed", "sequence_number": next(count), "response": whole}


async def _stream(request: web.Request, events: AsyncIterator[Body]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    async for event in events:
        await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def _stream_named(request: web.Request, events: AsyncIterator[Body]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    async for event in events:
        text = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
        await response.write(text.encode())
    await response.write_eof()
    return response
