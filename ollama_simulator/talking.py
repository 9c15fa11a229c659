"""`/api/generate`, `/api/chat` and the embeddings; formats and texts as recorded."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

from aiohttp import web

from ollama_simulator import replies
from ollama_simulator.generation import Reply, Say
from ollama_simulator.gojson import Body
from ollama_simulator.host import HOST, now_text
from ollama_simulator.messages import api_messages
from ollama_simulator.runner import effective_ctx
from ollama_simulator.server import Refused, Request
from ollama_simulator.shapes import answer, line, read_body, stream
from ollama_simulator.versions import SHIFT_RELOADS, THINK

ZERO_TIME = "0001-01-01T00:00:00Z"
CONTEXT = [285, 293, 263, 270, 270, 273]
Row = Callable[[str, str], Body]


def _generate_row(asked: str, text: str) -> Body:
    return {"model": asked, "created_at": now_text(), "response": text, "done": False}


def _chat_row(asked: str, text: str) -> Body:
    message: Body = {"role": "assistant", "content": text}
    return {"model": asked, "created_at": now_text(), "message": message, "done": False}


async def generate(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, "api.GenerateRequest")
    say = Say(
        asked=str(body.get("model") or ""),
        prompt=str(body.get("prompt") or ""),
        as_json=bool(body.get("format")),
    )
    return await _talk(request, body, say, "generate", _generate_row)


async def chat(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, "api.ChatRequest")
    messages = api_messages(body)
    texts = tuple(replies.text_of(m) for m in messages)
    say = Say(
        asked=str(body.get("model") or ""),
        prompt=" ".join(texts),
        messages=texts,
        as_json=bool(body.get("format")),
        tool=replies.tool_call(body.get("tools")) if replies.wants_tool(messages) else None,
    )
    return await _talk(request, body, say, "chat", _chat_row)


async def _talk(
    request: web.Request, body: Body, say: Say, kind: str, row: Row
) -> web.StreamResponse:
    """Load, unload or reply, as requested; shared by generate and chat."""
    options = body.get("options") or {}
    empty = not (body.get("messages") if kind == "chat" else say.prompt)
    limit = say.limit(options.get("num_predict"))
    version = request.app[HOST].server.config.version
    think = bool(body.get("think")) and version >= THINK
    shift = body.get("shift") is not False or version < SHIFT_RELOADS
    wish = Request(say.asked, kind, empty, body.get("keep_alive"), options, limit, think, shift)
    async with request.app[HOST].turn(wish) as turn:
        reply = Reply(turn, say)
        if empty:
            await turn.until()
            reply.check()
            done = {"done": True, "done_reason": turn.ask.reason}
            return answer(row(say.asked, "") | done)
        await _check_format(reply, body.get("format"))
        if body.get("stream") is not False:
            return await stream(request, _lines(reply, row), "application/x-ndjson")
        return answer(await _whole(reply, row))


async def _check_format(reply: Reply, wanted: object) -> None:
    """Raise `Refused` for an invalid format. Only the runner checks it, so the model is loaded by
    then.
    """
    if not wanted or wanted == "json" or isinstance(wanted, dict):
        return
    await reply.turn.until("running")
    reply.check()
    shown = json.dumps(json.dumps(wanted))
    text = f'invalid format: {shown}; expected "json" or a valid JSON Schema object'
    raise Refused(text, 500)


async def _whole(reply: Reply, row: Row) -> Body:
    text = "".join([t async for t in reply.tokens()])
    made = _with_tool(row(reply.say.asked, text), reply.say)
    if not reply.ask.broken:
        return made | _end(reply, row)
    if not text:  # fact 10: not even the model's name
        made |= {"model": "", "created_at": ZERO_TIME}
    return made


async def _lines(reply: Reply, row: Row) -> AsyncIterator[bytes]:
    say = reply.say
    try:
        async for token in reply.tokens():
            yield line(row(say.asked, token))
    except Refused as exc:
        if not reply.given:
            raise
        yield line({"error": exc.text})  # too late for a status
        return
    if reply.ask.broken:  # fact 10: it just ends
        return
    if say.tool:
        yield line(_with_tool(row(say.asked, ""), say))
    yield line(row(say.asked, "") | _end(reply, row))


def _end(reply: Reply, row: Row) -> Body:
    context = {"context": [*CONTEXT, *range(reply.given)]} if row is _generate_row else {}
    return {"done": True, "done_reason": reply.reason, **context, **reply.figures()}


def _with_tool(made: Body, say: Say) -> Body:
    if say.tool and "message" in made:
        call = {"id": "call_simulated", "function": {"index": 0, **say.tool}}
        made["message"]["tool_calls"] = [call]
    return made


def _texts(given: object) -> list[str]:
    if given is None or given == "":
        return []
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and all(isinstance(t, str) for t in given):
        return given
    raise Refused("invalid input type", 400)


async def embed(request: web.Request) -> web.Response:
    body = await read_body(request, "api.EmbedRequest")
    return answer(await embedded(request, body, body.get("keep_alive")))


async def embedded(request: web.Request, body: Body, keep_alive: object) -> Body:
    """Return the response to `/api/embed`. Raises `Refused` or `ConnectionCut`."""
    asked, texts = str(body.get("model") or ""), _texts(body.get("input"))
    wish = Request(asked, "embed", not texts, keep_alive, body.get("options") or {})
    async with request.app[HOST].turn(wish) as turn:
        reply = Reply(turn, Say(asked))
        context = effective_ctx(turn.ask.options, turn.ask.manifest)
        await turn.until()
        reply.check()
        if not texts:
            return {"model": asked, "embeddings": []}
        reply.ended_at = request.app[HOST].now()
        figures = reply.figures()
    wide = int(body.get("dimensions") or replies.EMBEDDING_LENGTH)
    who = turn.ask.manifest.speaks_as
    return {
        "model": asked,
        "embeddings": [replies.embedding(who, t, wide) for t in texts],
        "total_duration": figures["total_duration"],
        "load_duration": figures["load_duration"],
        "prompt_eval_count": sum(min(context, replies.count_tokens(t)) for t in texts),
    }


async def embeddings(request: web.Request) -> web.Response:
    """Answer the older endpoint: one prompt, one vector, no statistics."""
    body = await read_body(request, "api.EmbeddingRequest")
    asked, prompt = str(body.get("model") or ""), str(body.get("prompt") or "")
    options = body.get("options") or {}
    wish = Request(asked, "embeddings", not prompt, body.get("keep_alive"), options)
    async with request.app[HOST].turn(wish) as turn:
        await turn.until()
        Reply(turn, Say(asked)).check()
        who = turn.ask.manifest.speaks_as
    return answer({"embedding": replies.embedding(who, prompt) if prompt else []})
