"""The formats of the main responses, key by key, as recorded from a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.contract.server import Ollama

SHAPES = Path(__file__).parent / "shapes"
API_TYPE, V1_TYPE = "application/json; charset=utf-8", "application/json"
HELLO = [{"role": "user", "content": "Hello"}]


def skeleton(value: Any) -> Any:
    """Return only the keys and types."""
    if isinstance(value, dict):
        return {name: skeleton(part) for name, part in value.items()}
    if isinstance(value, list):
        return [skeleton(value[0])] if value else []
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "string"
    return "null" if value is None else "number"


def read_shape(name: str) -> Any:
    return json.loads((SHAPES / f"{name}.json").read_text())


def assert_shape(value: Any, name: str, *older: str) -> None:
    """Check a response; `older` are the formats of servers up to 0.24."""
    shape, made = read_shape(name), skeleton(value)
    if "model_info" in made:  # the architecture differs from model to model
        assert shape["model_info"].items() <= made.pop("model_info").items()
        del shape["model_info"]
    assert made == shape or made in [read_shape(o) for o in older]


def assert_answer(
    answer: requests.Response, name: str, *older: str, content_type: str = API_TYPE
) -> None:
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == content_type
    assert_shape(answer.json(), name, *older)


def events(answer: requests.Response) -> list[Any]:
    """Return the server-sent events, of which the last is [DONE]."""
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.headers["Transfer-Encoding"] == "chunked"
    parts = answer.text.split("\n\n")
    assert parts[-2:] == ["data: [DONE]", ""]
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-2]]


@pytest.mark.fact(18)
def test_the_catalogue(ollama: Ollama) -> None:
    """Facts 16 and 18."""
    assert_answer(ollama.call("GET", "/api/version"), "version")
    older = () if ollama.simulated else ("tags_older",)
    assert_answer(ollama.call("GET", "/api/tags"), "tags", *older)
    assert_answer(ollama.post("/api/show", model=ollama.models.small_a), "show")


@pytest.mark.fact(18)
def test_what_is_loaded(ollama: Ollama) -> None:
    """Fact 18."""
    assert_answer(ollama.call("GET", "/api/ps"), "ps_empty")
    ollama.load(ollama.models.small_a)
    assert_answer(ollama.call("GET", "/api/ps"), "ps")


@pytest.mark.fact(1)
def test_loads_and_unloads_are_one_object_each(ollama: Ollama) -> None:
    """Fact 1: whether a stream was requested or not."""
    model = ollama.models.small_a
    assert_answer(ollama.post("/api/generate", model=model, prompt=""), "generate_load")
    assert_answer(ollama.unload(model), "generate_unload")
    assert_answer(ollama.post("/api/chat", model=model, messages=[]), "chat_load")


@pytest.mark.fact(17)
def test_replies_in_one_piece(ollama: Ollama) -> None:
    """Fact 17."""
    model = ollama.models.small_a
    assert_answer(ollama.generate(model), "generate_reply")
    more = {"stream": False, "options": {"num_predict": 2}}
    assert_answer(ollama.post("/api/chat", model=model, messages=HELLO, **more), "chat_reply")
    assert_answer(ollama.post("/api/embed", model=ollama.models.embed, input="Hello"), "embed")


@pytest.mark.fact(17)
def test_a_streamed_reply_is_lines_of_json(ollama: Ollama) -> None:
    """Fact 17: the figures come with the last one."""
    body = {"model": ollama.models.small_a, "prompt": "Hello", "options": {"num_predict": 16}}
    answer = ollama.call("POST", "/api/generate", body)
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert answer.headers["Transfer-Encoding"] == "chunked"
    *parts, last = [json.loads(line) for line in answer.text.splitlines()]
    assert parts
    for part in parts:
        assert_shape(part, "generate_part")
        assert part["done"] is False
    assert_shape(last, "generate_last")
    assert (last["response"], last["done"]) == ("", True)


@pytest.mark.fact(10)
def test_a_reply_that_ends_early(faulty: Ollama) -> None:
    """Fact 10."""
    faulty.fault("done_false", times=1)
    assert_answer(faulty.generate(faulty.models.small_a), "generate_broken")


@pytest.mark.fact(25)
def test_errors(ollama: Ollama) -> None:
    """Fact 25."""
    assert_shape(ollama.generate("contract-nope").json(), "error")
    body = {"model": "contract-nope", "messages": HELLO}
    assert_shape(ollama.post("/v1/chat/completions", **body).json(), "v1_error")


@pytest.mark.fact(13)
def test_v1_in_one_piece(ollama: Ollama) -> None:
    """Fact 13."""
    body = {"model": ollama.models.small_a, "messages": HELLO, "max_tokens": 4}
    answer = ollama.post("/v1/chat/completions", **body)
    assert_answer(answer, "v1_chat", content_type=V1_TYPE)
    assert answer.json()["usage"]["completion_tokens"] == 4
    assert answer.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.fact(13)
def test_v1_streamed(ollama: Ollama) -> None:
    """Fact 13: the role in the first part, the reason in one of its own, the usage after it. Up to
    0.24 the role is in each."""
    parts_older: tuple[str, ...] = ("v1_chat_first",)
    finish_older: tuple[str, ...] = ("v1_chat_finish_older",)
    if ollama.simulated:
        parts_older = finish_older = ()
    body = {"model": ollama.models.a, "messages": HELLO, "max_tokens": 16, "stream": True}
    with_usage = {**body, "stream_options": {"include_usage": True}}
    first, *parts, finish, usage = events(ollama.post("/v1/chat/completions", **with_usage))
    assert_shape(first, "v1_chat_first")
    for part in parts:
        assert_shape(part, "v1_chat_part", *parts_older)
    assert_shape(finish, "v1_chat_finish", *finish_older)
    assert finish["choices"][0]["finish_reason"] == "length"
    assert_shape(usage, "v1_chat_usage")
    *_, last = events(ollama.post("/v1/chat/completions", **body))
    assert_shape(last, "v1_chat_finish", *finish_older)


@pytest.mark.fact(25)
def test_the_rest_of_v1(ollama: Ollama) -> None:
    """Fact 25: completions, embeddings, responses."""
    body = {"model": ollama.models.a, "prompt": "Hello", "max_tokens": 16}
    answer = ollama.post("/v1/completions", **body)
    assert_answer(answer, "v1_completion", content_type=V1_TYPE)
    answer = ollama.post("/v1/embeddings", model=ollama.models.embed, input=["Hello"])
    assert_answer(answer, "v1_embeddings", content_type=V1_TYPE)
    more = {"input": "Hello", "max_output_tokens": 16}
    answer = ollama.post("/v1/responses", model=ollama.models.a, **more)
    assert_answer(answer, "v1_response", content_type=V1_TYPE)


@pytest.mark.fact(25)
def test_a_response_is_streamed_in_named_events(ollama: Ollama) -> None:
    """Fact 25: one kind of part after the other, without [DONE]."""
    body = {"model": ollama.models.a, "input": "Hello", "max_output_tokens": 16, "stream": True}
    answer = ollama.post("/v1/responses", **body)
    assert answer.headers["Content-Type"] == "text/event-stream"
    lines = answer.text.splitlines()
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert list(dict.fromkeys(kinds)) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "[DONE]" not in answer.text
    last = json.loads([line for line in lines if line][-1].removeprefix("data: "))
    assert_shape(last["response"], "v1_response")


@pytest.mark.fact(20)
def test_v1_models(ollama: Ollama) -> None:
    """Fact 20: the list gives full names, one model the name that was asked for."""
    listed = ollama.call("GET", "/v1/models")
    assert_answer(listed, "v1_models", content_type=V1_TYPE)
    assert {m["id"] for m in listed.json()["data"]} == set(ollama.digests())
    one = ollama.call("GET", f"/v1/models/{ollama.models.small_a}")
    assert_answer(one, "v1_model", content_type=V1_TYPE)
    assert one.json()["id"] == ollama.models.small_a


@pytest.mark.fact(21)
def test_a_copy_is_the_newest_in_the_list(ollama: Ollama) -> None:
    """Fact 21."""
    ollama.copy(ollama.models.small_a, "contract-active")
    assert ollama.get("/api/tags")["models"][0]["name"] == "contract-active:latest"
