from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.domain.specs import Spec
from switcher.gateway.errors import GatewayError
from switcher.gateway.translate import ChatTranslator, to_chat
from switcher.models import Host
from tests.gateway.conftest import HELLO, Upstream, ask, set_active

SPEC = Spec("coder", "mid-a", keep_alive="2h", options={"num_ctx": 8192, "temperature": 0.2})
NDJSON = {"Content-Type": "application/x-ndjson"}
USER = {"role": "user", "content": "Hi"}


def chat(**members: Any) -> dict[str, Any]:
    return to_chat({"messages": [USER], **members}, "mid-a", SPEC)


def line(content: str = "", done: bool = False, **more: Any) -> bytes:
    row = {"model": "mid-a", "message": {"role": "assistant", "content": content}, "done": done}
    return json.dumps(row | more).encode() + b"\n"


LAST = {"done_reason": "stop", "prompt_eval_count": 7, "eval_count": 3}
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def test_runner_options_and_keep_alive_are_those_of_the_loaded_model() -> None:
    translated = chat(keep_alive="1m", options={"num_ctx": 1})
    assert translated == {
        "model": "mid-a",
        "messages": [USER],
        "stream": False,
        "options": {"num_ctx": 8192, "temperature": 0.2, "top_p": 1.0},
        "keep_alive": "2h",
    }


def test_forever_is_sent_as_a_number() -> None:
    """Fact 7: the server refuses the string."""
    translated = to_chat({"messages": []}, "mid-a", Spec("", "mid-a", "forever", {"num_ctx": 1}))
    assert translated["keep_alive"] == -1


def test_sampling_options_are_mapped_and_the_clients_win() -> None:
    translated = chat(
        stream=True, temperature=0, top_p=0.5, max_tokens=9, seed=1, stop="X", presence_penalty=1
    )
    assert translated["stream"] is True
    assert translated["options"] == {
        "num_ctx": 8192,
        "temperature": 0,
        "top_p": 0.5,
        "num_predict": 9,
        "seed": 1,
        "stop": ["X"],
        "presence_penalty": 1,
    }
    assert chat(stop=["a", "b"], max_completion_tokens=5)["options"]["stop"] == ["a", "b"]


@pytest.mark.parametrize(
    ("response_format", "translated"),
    [
        ({"type": "json_object"}, "json"),
        (
            {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
            {"type": "object"},
        ),
        ({"type": "text"}, None),
    ],
)
def test_response_formats_are_mapped(response_format: dict[str, Any], translated: Any) -> None:
    assert chat(response_format=response_format).get("format") == translated


def test_reasoning_effort_is_mapped() -> None:
    assert chat(reasoning_effort="low")["think"] == "low"
    assert chat(reasoning={"effort": "none"})["think"] is False
    assert "think" not in chat()


def test_content_parts_become_messages_and_images() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}
    translated = chat(
        messages=[{"role": "user", "content": [{"type": "text", "text": "see"}, image]}]
    )
    assert translated["messages"] == [
        {"role": "user", "content": "see"},
        {"role": "user", "content": "", "images": ["QUJD"]},
    ]


def test_tool_calls_and_their_results_are_translated() -> None:
    tools = [{"type": "function", "function": {"name": "now"}}]
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": '{"z":1}'}}
    translated = chat(
        tools=tools,
        messages=[
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
        ],
    )
    assert translated["tools"] == tools
    assert translated["messages"] == [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "now", "arguments": {"z": 1}}}],
        },
        {"role": "tool", "content": "12:00", "tool_name": "now"},
    ]


@pytest.mark.parametrize(
    "messages",
    [
        None,
        "Hi",
        ["Hi"],
        [{"content": "Hi"}],
        [{"role": "user", "content": 7}],
        [{"role": "user"}],
        [{"role": "user", "content": ["Hi"]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": "http://x/y.png"}]}],
        [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}],
    ],
)
def test_messages_that_cannot_be_used_are_refused(messages: Any) -> None:
    with pytest.raises(GatewayError) as refused:
        chat(messages=messages)
    assert (refused.value.status, refused.value.param) == (400, "messages")


def test_lines_cut_anywhere_give_the_same_events() -> None:
    lines = line("Häl") + line("lo") + line(done=True, **LAST)
    texts = set()
    for size in (1, 2, 7, len(lines)):
        answer = ChatTranslator("mid-a", include_usage=True)
        answer._head = {"id": "chatcmpl-1"}
        parts = [lines[i : i + size] for i in range(0, len(lines), size)]
        texts.add(b"".join(answer.feed(part) for part in parts))
        assert answer.done
    assert len(texts) == 1
    assert texts.pop().endswith(b"data: [DONE]\n\n")


def test_tool_calls_in_replies_have_their_arguments_as_text() -> None:
    call = {"function": {"name": "now", "arguments": {"zone": "UTC"}}}
    message = {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [call]}
    translated = ChatTranslator("mid-a").whole({"message": message, "done": True, **LAST})
    choice = translated["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["reasoning"] == "hm"
    tool_call = choice["message"]["tool_calls"][0]
    assert tool_call["function"] == {"name": "now", "arguments": '{"zone": "UTC"}'}
    assert tool_call["id"].startswith("call_")


async def test_a_profile_with_runner_options_uses_api_chat(host: Host, upstream: Upstream) -> None:
    """Fact 12: through /v1 the model would be reloaded with the server's defaults."""
    await in_thread(set_active, host, SPEC)

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(json.loads(line("Hello", done=True, **LAST)))

    upstream.answer = answer
    reply = await ask({**HELLO, "keep_alive": 0}).end()
    assert upstream.received[0][0] == "/api/chat"
    assert upstream.body()["options"]["num_ctx"] == 8192
    assert upstream.body()["keep_alive"] == "2h"
    assert reply.headers["x-switchboard-model"] == "mid-a"
    translated = reply.json()
    assert translated["object"] == "chat.completion"
    assert translated["model"] == "mid-a"
    assert translated["usage"] == USAGE
    assert translated["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello"},
            "finish_reason": "stop",
        }
    ]


async def test_a_translated_stream_comes_as_events(host: Host, upstream: Upstream) -> None:
    await in_thread(set_active, host, SPEC)

    async def answer(request: web.Request) -> web.StreamResponse:
        body = line("Hel") + line("lo") + line(done=True, **LAST)
        return web.Response(body=body, headers=NDJSON)

    upstream.answer = answer
    usage = {"stream_options": {"include_usage": True}}
    reply = await ask({**HELLO, "stream": True, **usage}).end()
    assert reply.headers["content-type"] == "text/event-stream"
    *chunks, last, done = reply.events()
    assert done == "DONE"
    assert "".join(c["choices"][0]["delta"]["content"] for c in chunks) == "Hello"
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, "stop"]
    assert (last["choices"], last["usage"]) == ([], USAGE)
    assert len({c["id"] for c in [*chunks, last]}) == 1


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (line("Hel"), "stopped before"),
        (line("Hel") + b'{"error": "unexpected EOF"}\n', "unexpected EOF"),
        (line("Hel") + b"<html>\n", "not JSON"),
        (line("Hel") + b"[]\n", "not JSON"),
    ],
)
async def test_a_translated_stream_that_is_not_done_ends_with_an_error(
    host: Host, upstream: Upstream, body: bytes, text: str
) -> None:
    """Fact 10: a 200 is not a success."""
    await in_thread(set_active, host, SPEC)

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, headers=NDJSON)

    upstream.answer = answer
    reply = await ask({**HELLO, "stream": True}).end()
    assert text in reply.events()[-1]["error"]["message"]


@pytest.mark.parametrize(
    ("status", "answered", "expected"),
    [
        (200, {"message": {"content": "Hel"}, "done": False}, 502),
        (200, {}, 502),
        (200, [], 502),
        (404, {"error": "model 'mid-a' not found"}, 404),
        (503, {"error": "server busy"}, 503),
        (500, "no", 502),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_the_hosts_errors_come_in_openais_style(
    host: Host, upstream: Upstream, status: int, answered: Any, expected: int, stream: bool
) -> None:
    await in_thread(set_active, host, SPEC)

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response(answered, status=status)

    upstream.answer = answer
    reply = await ask({**HELLO, "stream": stream}).end()
    assert reply.status == expected
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
