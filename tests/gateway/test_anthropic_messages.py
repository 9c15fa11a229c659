"""Requests of Anthropic's API as chats of Ollama's own."""

from __future__ import annotations

from typing import Any

import pytest

from switcher.domain.specs import Spec
from switcher.gateway.anthropic_messages import to_chat, unmapped_members
from switcher.gateway.errors import GatewayError
from switcher.queries.gates import ModelChoice

CHOICE = ModelChoice("mid-a", Spec("", "mid-a"))
USER = {"role": "user", "content": "Hi"}
PNG = {"type": "base64", "media_type": "image/png", "data": "QUJD"}
WEATHER = {
    "name": "weather",
    "description": "The weather of a city",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def chat(choice: ModelChoice = CHOICE, **members: Any) -> dict[str, Any]:
    return to_chat({"max_tokens": 9, "messages": [USER], **members}, choice)


def messages(*rows: Any) -> Any:
    return chat(messages=list(rows))["messages"]


def test_the_members_that_ollama_has_are_mapped() -> None:
    sampling = {"temperature": 0, "top_p": 0.5, "top_k": 3, "stop_sequences": ["X"]}
    assert chat(stream=True, model="claude-sonnet-5", **sampling) == {
        "model": "mid-a",
        "messages": [USER],
        "stream": True,
        "options": {"num_predict": 9, "temperature": 0, "top_p": 0.5, "top_k": 3, "stop": ["X"]},
        "think": False,
    }


@pytest.mark.fact(12)
def test_the_profiles_options_are_sent_and_the_clients_win() -> None:
    spec = Spec("long", "mid-a", options={"num_ctx": 8192, "temperature": 0.2, "seed": 1})
    options = chat(ModelChoice("mid-a", spec), temperature=1.0)["options"]
    assert options == {"num_ctx": 8192, "temperature": 1.0, "seed": 1, "num_predict": 9}


@pytest.mark.fact(13)
def test_a_clients_keep_alive_is_not_sent() -> None:
    assert "keep_alive" not in chat(keep_alive=0)


@pytest.mark.parametrize(
    "system",
    ["Be brief.", [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]],
)
def test_the_system_prompt_is_text_or_blocks_of_text(system: Any) -> None:
    assert chat(system=system)["messages"] == [{"role": "system", "content": "Be brief."}, USER]


def test_blocks_of_text_and_images_become_one_message() -> None:
    blocks = [
        {"type": "text", "text": "What ", "cache_control": {"type": "ephemeral"}},
        {"type": "image", "source": PNG},
        {"type": "text", "text": "is this?"},
        {"type": "document", "source": {"type": "text", "data": " A note."}},
    ]
    assert messages({"role": "user", "content": blocks}) == [
        {"role": "user", "content": "What is this? A note.", "images": ["QUJD"]}
    ]


def test_tool_calls_and_their_results_keep_id_name_and_order() -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}}
    thought = {"type": "thinking", "thinking": "Look it up.", "signature": "x"}
    secret = {"type": "redacted_thinking", "data": "x"}
    seen = [{"type": "text", "text": "sunny"}, {"type": "image", "source": PNG}]
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": seen, "is_error": False}
    call = {"id": "toolu_1", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
    translated = messages(
        {"role": "assistant", "content": [thought, secret, use]},
        {"role": "user", "content": [{"type": "text", "text": "So?"}, result]},
    )
    assert translated == [
        {"role": "assistant", "content": "", "thinking": "Look it up.", "tool_calls": [call]},
        {
            "role": "tool",
            "content": "sunny",
            "images": ["QUJD"],
            "tool_call_id": "toolu_1",
            "tool_name": "weather",
        },
        {"role": "user", "content": "So?"},
    ]


def test_a_message_of_results_alone_adds_no_empty_message() -> None:
    results = [{"type": "tool_result", "tool_use_id": str(n), "content": "ok"} for n in (1, 2)]
    assert [m["role"] for m in messages({"role": "user", "content": results})] == ["tool", "tool"]


def test_a_search_that_anthropic_did_earlier_is_kept_as_text() -> None:
    use = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}}
    found = [{"type": "web_search_result", "url": "https://example.net", "title": "X"}]
    result = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": found}
    call, tool = messages({"role": "assistant", "content": [use, result]})
    assert call["tool_calls"][0]["function"]["name"] == "web_search"
    assert (tool["role"], "https://example.net" in tool["content"]) == ("tool", True)


def test_tools_are_functions() -> None:
    assert chat(tools=[WEATHER])["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather of a city",
                "parameters": WEATHER["input_schema"],
            },
        }
    ]


@pytest.mark.parametrize(
    ("choice", "dropped"),
    [("auto", []), ("none", []), ("any", ["tool_choice"]), ("tool", ["tool_choice"])],
)
def test_a_choice_of_tools_is_kept_or_named(choice: str, dropped: list[str]) -> None:
    """No server can force a tool, but none is offered if none may be used."""
    asked = {"tools": [WEATHER], "tool_choice": {"type": choice, "name": "weather"}}
    assert ("tools" in chat(**asked)) == (choice != "none")
    assert unmapped_members(asked) == dropped


def test_tools_of_anthropics_own_servers_are_dropped_and_named() -> None:
    """A server would send the query to ollama.com."""
    asked = {"tools": [SEARCH, WEATHER]}
    assert [t["function"]["name"] for t in chat(**asked)["tools"]] == ["weather"]
    assert unmapped_members(asked) == ["tools.web_search"]


@pytest.mark.parametrize(
    ("asked", "think"),
    [
        ({}, False),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "low"),
        ({"output_config": {"effort": "xhigh"}}, "high"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, False),
        ({"output_config": {"effort": "unheard of"}}, False),
    ],
)
def test_thinking_is_mapped(asked: Any, think: object) -> None:
    assert chat(**asked).get("think") == think


@pytest.mark.parametrize("asked", ["output_config", "output_format"])
def test_a_schema_for_the_answer_is_mapped(asked: str) -> None:
    wanted = {"type": "json_schema", "schema": {"type": "object"}}
    member = {"format": wanted} if asked == "output_config" else wanted
    assert chat(**{asked: member})["format"] == {"type": "object"}


def test_members_without_an_equivalent_are_named() -> None:
    asked = {
        "max_tokens": 9,
        "messages": [USER],
        "stream": True,
        "service_tier": None,
        "metadata": {"user_id": "7"},
        "container": "c",
        "keep_alive": 0,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    assert unmapped_members(asked) == ["container", "metadata", "thinking.budget_tokens"]


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": ["Hi"]}, "messages"),
        ({"messages": [{"content": "Hi"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages"),
        ({"system": 7}, "system"),
        ({"system": ["Hi"]}, "system"),
        ({"tools": "x"}, "tools"),
        ({"tools": ["x"]}, "tools"),
        ({"tools": [{"input_schema": {}}]}, "tools"),
    ],
)
def test_what_cannot_be_used_is_refused_and_named(members: dict[str, Any], param: str) -> None:
    with pytest.raises(GatewayError) as refused:
        chat(**members)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert param in str(refused.value)


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}, "in base64"),
        ({"type": "image"}, "in base64"),
        ({"type": "document", "source": {"type": "base64", "data": "x"}}, "not plain text"),
        ({"type": "container_upload", "file_id": "x"}, "container_upload"),
    ],
)
def test_content_that_would_be_lost_is_refused(block: Any, text: str) -> None:
    with pytest.raises(GatewayError, match=text):
        messages({"role": "user", "content": [block]})
    result = {"type": "tool_result", "tool_use_id": "1", "content": [block]}
    with pytest.raises(GatewayError, match=text):
        messages({"role": "user", "content": [result]})
