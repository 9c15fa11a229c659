"""The server's `/v1`: OpenAI's formats over the same scheduler, without keep-alive or runner
options (fact 13).
"""

from __future__ import annotations

import base64
import itertools
import json
import struct
import time
from collections.abc import AsyncIterator
from datetime import datetime

from aiohttp import web

from ollama_simulator import replies, talking
from ollama_simulator.catalog import valid_name
from ollama_simulator.generation import Reply, Say
from ollama_simulator.gojson import Body
from ollama_simulator.host import HOST, Host
from ollama_simulator.messages import v1_messages
from ollama_simulator.server import Refused, Request, Unread
from ollama_simulator.shapes import V1_TYPE, answer, event, read_body, stream
from ollama_simulator.versions import INCLUDE_USAGE, REASONING_EFFORT

DONE = b"data: [DONE]\n\n"
EVENTS = "text/event-stream"
numbers = itertools.count(100)


async def models(request: web.Request) -> web.Response:
    host = request.app[HOST]
    rows = [_model(host, name, name) for name, _ in host.tick().catalog.listed()]
    return answer({"object": "list", "data": rows or None}, 200, V1_TYPE)


async def model(request: web.Request) -> web.Response:
    host, asked = request.app[HOST], request.match_info["name"]
    catalog = host.tick().catalog
    if not valid_name(asked):
        raise Refused("invalid model name", 400)
    if catalog.find(asked) is None:
        raise Refused(f"model '{catalog.known(asked)}' not found", 404)
    return answer(_model(host, asked, catalog.known(asked)), 200, V1_TYPE)


def _model(host: Host, shown: str, name: str) -> Body:
    changed = datetime.fromisoformat(host.wall(host.server.catalog.changed_at[name]))
    parts = name.split("/")
    owner = parts[-2] if len(parts) > 1 else "library"
    created = int(changed.timestamp())
    return {"id": shown, "object": "model", "created": created, "owned_by": owner}


def usage(reply: Reply) -> Body:
    given, asked = reply.given, reply.prompt_tokens
    return {"prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given}


class _Head:
    """The members that all parts of a response share."""

    def __init__(self, prefix: str, kind: str, asked: str) -> None:
        self.number = next(numbers)
        self.kind = kind
        self._row = {"id": f"{prefix}-{self.number}", "created": int(time.time()), "model": asked}

    def row(self, kind: str = "") -> Body:
        row = {"id": self._row["id"], "object": kind or self.kind, "created": self._row["created"]}
        return row | {"model": self._row["model"], "system_fingerprint": "fp_ollama"}


async def chat(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, "openai.ChatCompletionRequest")
    messages = v1_messages(body)
    texts = tuple(replies.text_of(m) for m in messages)
    form = body.get("response_format") or {}
    say = Say(
        asked=str(body.get("model") or ""),
        prompt=" ".join(texts),
        messages=texts,
        as_json=form.get("type") in ("json_object", "json_schema"),
        tool=replies.tool_call(body.get("tools")) if replies.wants_tool(messages) else None,
    )
    version = request.app[HOST].server.config.version
    think = body.get("reasoning_effort") not in (None, "", "none") and version >= REASONING_EFFORT
    limit = say.limit(body.get("max_tokens"))
    wish = Request(say.asked, "chat", tokens=limit, think=think)
    async with request.app[HOST].turn(wish) as turn:
        head = _Head("chatcmpl", "chat.completion", say.asked)
        if body.get("stream"):
            parts = _chat_events(Reply(turn, say), head, wants_usage(request, body))
            return await stream(request, parts, EVENTS)
        return answer(await _chat_whole(Reply(turn, say), head), 200, V1_TYPE)


def wants_usage(request: web.Request, body: Body) -> bool:
    is_known = request.app[HOST].server.config.version >= INCLUDE_USAGE
    return is_known and bool((body.get("stream_options") or {}).get("include_usage"))


async def _chat_whole(reply: Reply, head: _Head) -> Body:
    text = "".join([t async for t in reply.tokens()])
    message: Body = {"role": "assistant", "content": text}
    if reply.say.tool:
        message["tool_calls"] = [_call(reply.say.tool, head.number)]
    row = head.row()
    row["choices"] = [{"index": 0, "message": message, "finish_reason": _finish(reply)}]
    return row | {"usage": usage(reply)}


def _finish(reply: Reply) -> str | None:
    if reply.ask.broken:
        return None
    return "tool_calls" if reply.say.tool else reply.reason


def _call(tool: Body, number: int) -> Body:
    function = {"name": tool["name"], "arguments": json.dumps(tool["arguments"])}
    return {"id": f"call_{number}", "index": 0, "type": "function", "function": function}


async def _chat_events(reply: Reply, head: _Head, with_usage: bool) -> AsyncIterator[bytes]:
    kind = "chat.completion.chunk"

    def part(delta: Body, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return event(head.row(kind) | {"choices": [choice]})

    role = {"role": "assistant"}
    try:
        async for token in reply.tokens():
            yield part({**role, "content": token})
            role = {}
    except Refused:
        if not reply.given:
            raise
        # The real server sends the error as a part without text, and ends without [DONE].
        yield event(head.row(kind) | {"model": "", "choices": [_empty_choice()]})
        return
    if reply.ask.broken:  # fact 10: it ends without finish_reason and [DONE]
        return
    if reply.say.tool:
        yield part({**role, "content": "", "tool_calls": [_call(reply.say.tool, head.number)]})
    yield part({}, _finish(reply))
    if with_usage:
        yield event(head.row(kind) | {"choices": [], "usage": usage(reply)})
    yield DONE


def _empty_choice() -> Body:
    return {"index": 0, "delta": {"content": ""}, "finish_reason": None}


async def completions(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, "openai.CompletionRequest")
    say = Say(str(body.get("model") or ""), str(body.get("prompt") or ""))
    wish = Request(say.asked, "generate", not say.prompt, tokens=say.limit(body.get("max_tokens")))
    async with request.app[HOST].turn(wish) as turn:
        head, reply = _Head("cmpl", "text_completion", say.asked), Reply(turn, say)
        if body.get("stream"):
            return await stream(
                request, _text_events(reply, head, wants_usage(request, body)), EVENTS
            )
        text = "".join([t async for t in reply.tokens()])
        finish = None if turn.ask.broken else reply.reason
        choices = [{"text": text, "index": 0, "finish_reason": finish}]
        return answer(head.row() | {"choices": choices, "usage": usage(reply)}, 200, V1_TYPE)


async def _text_events(reply: Reply, head: _Head, with_usage: bool) -> AsyncIterator[bytes]:
    def part(text: str, finish: str | None = None) -> Body:
        none = {"usage": dict.fromkeys(usage(reply), 0)} if with_usage else {}
        choice = {"text": text, "index": 0, "finish_reason": finish}
        return head.row() | {"choices": [choice]} | none

    async for token in reply.tokens():
        yield event(part(token))
    if reply.ask.broken:
        return
    yield event(part("", reply.reason))
    if with_usage:
        yield event(head.row() | {"choices": [], "usage": usage(reply)})
    yield DONE


async def embeddings(request: web.Request) -> web.Response:
    body = await read_body(request, "openai.EmbedRequest")
    form, given = str(body.get("encoding_format") or "float").lower(), body.get("input")
    if form not in ("float", "base64"):
        text = f"Invalid value for 'encoding_format' = {body['encoding_format']}."
        raise Unread(f"{text} Supported values: ['float', 'base64'].", 400)
    if given is None or given == []:
        raise Unread("invalid input", 400)
    wish = {"model": body.get("model"), "input": given, "dimensions": body.get("dimensions")}
    made = await talking.embedded(request, wish, None)
    data = [
        {"object": "embedding", "embedding": _packed(row) if form == "base64" else row, "index": n}
        for n, row in enumerate(made["embeddings"])
    ]
    count = made.get("prompt_eval_count", 0)
    told = {"prompt_tokens": count, "total_tokens": count}
    row = {"object": "list", "data": data, "model": made["model"], "usage": told}
    return answer(row, 200, V1_TYPE)


def _packed(row: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()
