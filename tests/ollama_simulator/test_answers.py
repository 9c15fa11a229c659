"""The simulator's responses over HTTP that the contract with the real server does not cover."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest

from tests.contract.server import Ollama

HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "parameters": {
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
USE = [{"role": "user", "content": "Please use the tool."}]
ARGUMENTS = {"city": "example", "days": 1}


def test_a_model_says_who_it_is_and_always_the_same(ollama: Ollama) -> None:
    ollama.copy("tiny-a", "contract-x")
    texts = [ollama.generate(m).json()["response"] for m in ("tiny-a", "contract-x", "tiny-b")]
    assert texts[0] == texts[1]
    assert texts[0].startswith("[tiny-a] ")
    assert texts[2].startswith("[tiny-b] ")


def test_a_reply_that_nobody_limits_stops_by_itself(ollama: Ollama) -> None:
    body = {"model": "tiny-a", "prompt": "Hello", "stream": False}
    answer = ollama.call("POST", "/api/generate", body).json()
    assert (answer["eval_count"], answer["done_reason"]) == (24, "stop")


def test_json_is_said_where_json_is_wanted(ollama: Ollama) -> None:
    plain = ollama.generate("tiny-a", format="json").json()["response"]
    body = {"model": "tiny-a", "messages": HELLO, "response_format": {"type": "json_object"}}
    openai = ollama.post("/v1/chat/completions", **body).json()["choices"][0]["message"]["content"]
    assert json.loads(plain) == json.loads(openai) == {"model": "tiny-a", "ok": True}


def test_a_tool_is_called_where_the_words_ask_for_it(ollama: Ollama) -> None:
    body: dict[str, Any] = {"model": "tiny-a", "messages": USE, "tools": [TOOL]}
    message = ollama.post("/api/chat", **body, stream=False).json()["message"]
    assert message["tool_calls"][0]["function"]["arguments"] == ARGUMENTS
    choice = ollama.post("/v1/chat/completions", **body).json()["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    function = choice["message"]["tool_calls"][0]["function"]
    assert (function["name"], json.loads(function["arguments"])) == ("look_up", ARGUMENTS)
    answer = ollama.post("/api/chat", model="tiny-a", messages=HELLO, tools=[TOOL], stream=False)
    assert "tool_calls" not in answer.json()["message"]


def test_a_tool_call_is_streamed_before_the_end(ollama: Ollama) -> None:
    body: dict[str, Any] = {"model": "tiny-a", "messages": USE, "tools": [TOOL], "stream": True}
    lines = [json.loads(row) for row in ollama.post("/api/chat", **body).text.splitlines()]
    assert "tool_calls" in lines[-2]["message"]
    parts = ollama.post("/v1/chat/completions", **body).text.split("\n\n")
    rows = [json.loads(p.removeprefix("data: ")) for p in parts[:-2]]
    assert rows[-2]["choices"][0]["delta"]["tool_calls"]
    assert rows[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_messages_of_parts_and_images_are_taken(ollama: Ollama) -> None:
    parts = [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "data:"}}]
    messages = [{"role": "user", "content": parts}]
    body = {"model": "tiny-a", "messages": messages, "max_tokens": 1}
    assert ollama.post("/v1/chat/completions", **body).status_code == 200
    assert ollama.generate("tiny-a", images=["aGk="]).status_code == 200


def test_older_completions_are_answered_too(ollama: Ollama) -> None:
    body: dict[str, Any] = {"model": "tiny-a", "prompt": "Hello", "max_tokens": 2}
    whole = ollama.post("/v1/completions", **body).json()
    assert whole["object"] == "text_completion"
    assert whole["choices"][0]["text"].startswith("[tiny-a] ")
    more = {"stream": True, "stream_options": {"include_usage": True}}
    parts = ollama.post("/v1/completions", **body, **more).text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    assert json.loads(parts[-3].removeprefix("data: "))["usage"]["completion_tokens"] == 2


def test_responses_are_answered_whole_and_in_events(ollama: Ollama) -> None:
    body: dict[str, Any] = {"model": "tiny-a", "input": "Hello", "max_output_tokens": 3}
    whole = ollama.post("/v1/responses", **body).json()
    text = whole["output"][0]["content"][0]["text"]
    assert (whole["status"], whole["usage"]["output_tokens"]) == ("completed", 3)
    parts = ollama.post("/v1/responses", **body, stream=True).text.strip().split("\n\n")
    rows = [json.loads(part.split("\ndata: ")[1]) for part in parts]
    assert [row["sequence_number"] for row in rows] == list(range(len(rows)))
    assert "".join(row["delta"] for row in rows if row["type"].endswith(".delta")) == text
    assert rows[-1]["type"] == "response.completed"


def test_embeddings_have_length_one_and_both_encodings(ollama: Ollama) -> None:
    body: dict[str, Any] = {"model": "embed", "input": ["Hello", "you"]}
    rows = ollama.post("/v1/embeddings", **body).json()["data"]
    assert sum(x * x for x in rows[0]["embedding"]) == pytest.approx(1, abs=1e-5)
    packed = ollama.post("/v1/embeddings", **body, encoding_format="base64").json()["data"]
    assert len(base64.b64decode(packed[0]["embedding"])) == 4 * len(rows[0]["embedding"])
    one = ollama.post("/api/embeddings", model="embed", prompt="Hello").json()
    assert one["embedding"] == rows[0]["embedding"]
    assert ollama.post("/api/embed", model="embed", input=5).status_code == 400


def test_a_pull_tells_its_progress_and_finds_only_what_is_there(ollama: Ollama) -> None:
    before = ollama.digest("tiny-a")
    rows = ollama.post("/api/pull", model="tiny-a").text.splitlines()
    assert json.loads(rows[0]) == {"status": "pulling manifest"}
    assert json.loads(rows[-1]) == {"status": "success"}
    assert ollama.digest("tiny-a") == before
    assert ollama.post("/api/pull", model="contract-nope", stream=False).status_code == 500


def test_a_model_can_be_made_from_another(ollama: Ollama) -> None:
    more = {"from": "tiny-a", "parameters": {"num_ctx": 2048}, "stream": False}
    assert ollama.post("/api/create", model="contract-x", **more).json() == {"status": "success"}
    ollama.load("contract-x")
    assert ollama.row("contract-x")["context_length"] == 2048
    assert ollama.digest("contract-x") != ollama.digest("tiny-a")


def test_a_push_is_refused_as_by_the_registry(ollama: Ollama) -> None:
    lines = ollama.call("POST", "/api/push", {"model": "tiny-a"}).text.splitlines()
    assert [list(json.loads(line)) for line in lines] == [["status"], ["error"]]
    missing = ollama.call("POST", "/api/push", {"model": "nobody", "stream": False})
    assert missing.json()["error"] == "model 'nobody' not found"


def test_files_are_uploaded_once_and_their_digest_is_checked(ollama: Ollama) -> None:
    path = f"/api/blobs/sha256:{hashlib.sha256(b'{}').hexdigest()}"
    assert ollama.call("HEAD", path).status_code == 404
    assert [ollama.call("POST", path, {}).status_code for _ in range(2)] == [201, 200]
    assert ollama.call("HEAD", path).status_code == 200
    wrong = ollama.call("POST", f"/api/blobs/sha256:{'0' * 64}", {})
    assert (wrong.status_code, "digest mismatch" in wrong.text) == (400, True)
    assert ollama.call("POST", "/api/blobs/abc", {}).status_code == 400


@pytest.mark.parametrize("path", ["/api/nothing", "/api/blobs/", "/v1/nothing"])
def test_an_unknown_address_is_plain_text_whatever_is_sent(ollama: Ollama, path: str) -> None:
    answer = ollama.call("POST", path, {"model": "tiny-a"})
    assert (answer.status_code, answer.text) == (404, "404 page not found")


def test_a_path_with_a_slash_too_many_is_redirected_whatever_is_sent(ollama: Ollama) -> None:
    answer = ollama.call("POST", "/api/show/", {"model": "tiny-a"}, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (307, "/api/show")
