"""`/v1/responses`: text in, text out, streamed or not."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Iterator

from aiohttp import web

from ollama_simulator import replies
from ollama_simulator.generation import Reply, Say
from ollama_simulator.gojson import Body
from ollama_simulator.host import HOST
from ollama_simulator.openai import EVENTS, numbers, usage
from ollama_simulator.server import Request, Unread
from ollama_simulator.shapes import V1_TYPE, answer, event, read_body, stream

# Settings in a response that the simulator does not support.
SETTINGS: Body = {
    "background": False,
    "frequency_penalty": 0,
    "instructions": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": False,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
}


async def responses(request: web.Request) -> web.StreamResponse:
    body = await read_body(request, "openai.ResponsesRequest")
    say = Say(str(body.get("model") or ""), _prompt(body))
    wish = Request(say.asked, "chat", tokens=say.limit(body.get("max_output_tokens")))
    async with request.app[HOST].turn(wish) as turn:
        reply, number = Reply(turn, say), next(numbers)
        if body.get("stream"):
            return await stream(request, _events(reply, number), EVENTS)
        text = "".join([t async for t in reply.tokens()])
        return answer(_response(reply, number, text), 200, V1_TYPE)


def _prompt(body: Body) -> str:
    given = body.get("input")
    if given is None or isinstance(given, str):
        return given or ""
    if not isinstance(given, list):
        raise Unread("input must be a string or array", 400)
    return " ".join(replies.text_of(item) for item in given if isinstance(item, dict))


def _part(text: str) -> Body:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _item(number: int, text: str, status: str) -> Body:
    parts = [_part(text)] if status == "completed" else []
    head = {"id": f"msg_{number}", "type": "message", "status": status, "role": "assistant"}
    return head | {"content": parts}


def _response(reply: Reply, number: int, text: str, status: str = "completed") -> Body:
    ended = status == "completed"
    counts, limit = usage(reply), reply.ask.tokens
    told = {
        "input_tokens": counts["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": counts["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": counts["total_tokens"],
    }
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": int(time.time()) if ended else None,
        "status": status,
        "incomplete_details": None,
        "model": reply.say.asked,
        "output": [_item(number, text, status)] if ended else [],
        "error": None,
        "usage": told if ended else None,
        "max_output_tokens": limit if reply.ask.reason == "length" else None,
        **SETTINGS,
    }


async def _events(reply: Reply, number: int) -> AsyncIterator[bytes]:
    count = itertools.count()
    where: Body = {"item_id": f"msg_{number}", "output_index": 0, "content_index": 0}
    texts: list[str] = []
    async for token in reply.tokens():
        if not texts:
            for part in _opening(reply, number, where, count):
                yield part
        texts.append(token)
        yield _named(count, "response.output_text.delta", where | {"delta": token, "logprobs": []})
    if reply.ask.broken:
        return
    for part in _closing(reply, number, where, count, "".join(texts)):
        yield part


def _named(count: Iterator[int], kind: str, row: Body) -> bytes:
    return event({"type": kind, "sequence_number": next(count), **row}, kind)


def _opening(reply: Reply, number: int, where: Body, count: Iterator[int]) -> Iterator[bytes]:
    begun = {"response": _response(reply, number, "", "in_progress")}
    yield _named(count, "response.created", begun)
    yield _named(count, "response.in_progress", begun)
    item = {"output_index": 0, "item": _item(number, "", "in_progress")}
    yield _named(count, "response.output_item.added", item)
    yield _named(count, "response.content_part.added", where | {"part": _part("")})


def _closing(
    reply: Reply, number: int, where: Body, count: Iterator[int], text: str
) -> Iterator[bytes]:
    yield _named(count, "response.output_text.done", where | {"text": text, "logprobs": []})
    yield _named(count, "response.content_part.done", where | {"part": _part(text)})
    item = {"output_index": 0, "item": _item(number, text, "completed")}
    yield _named(count, "response.output_item.done", item)
    yield _named(count, "response.completed", {"response": _response(reply, number, text)})
