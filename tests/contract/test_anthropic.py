"""What the translation of Anthropic's API relies on: it uses no `/v1/messages` of a server."""

from __future__ import annotations

from typing import Any

import pytest

from switcher.domain.specs import Spec
from switcher.gateway.anthropic_messages import to_chat
from switcher.queries.gates import ModelChoice
from tests.contract.server import Ollama

LONG = "Once upon a time there was a server. " * 20
CONVERSATION = [
    {"role": "user", "content": [{"type": "text", "text": "What is the weather in Paris?"}]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Look it up.", "signature": ""},
            {"type": "text", "text": "I look it up."},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"},
            {"type": "text", "text": "So?"},
        ],
    },
]


def chat(ollama: Ollama, **members: Any) -> Any:
    """Send a request of Anthropic's API as the gateway sends it."""
    model = ollama.models.small_a
    asked = {"max_tokens": 2, "messages": CONVERSATION, "system": "Be brief.", **members}
    return ollama.call("POST", "/api/chat", to_chat(asked, ModelChoice(model, Spec("", model))))


@pytest.mark.fact(11, 29)
def test_a_conversation_with_tools_and_thoughts_is_understood(ollama: Ollama) -> None:
    answer = chat(ollama, temperature=0.5, top_p=0.9, top_k=10, stop_sequences=["STOP"])
    assert answer.status_code == 200, answer.text
    reply = answer.json()
    assert (reply["done"], reply["eval_count"] <= 2) == (True, True)
    assert reply["prompt_eval_count"] > 0


@pytest.mark.fact(29)
@pytest.mark.parametrize(
    "asked", [{"thinking": {"type": "enabled"}}, {"output_config": {"effort": "high"}}]
)
def test_a_model_that_cannot_think_says_so(ollama: Ollama, asked: dict[str, Any]) -> None:
    answer = chat(ollama, **asked)
    assert answer.status_code == 400
    assert "does not support thinking" in answer.json()["error"]


@pytest.mark.fact(29)
def test_a_prompt_is_counted_in_full_even_if_it_is_in_the_cache(ollama: Ollama) -> None:
    messages = [{"role": "user", "content": LONG}]
    counts = [chat(ollama, messages=messages).json()["prompt_eval_count"] for _ in range(2)]
    assert counts[0] == counts[1] > 100


@pytest.mark.fact(29)
def test_no_address_counts_tokens(ollama: Ollama) -> None:
    answer = ollama.post("/v1/messages/count_tokens", model=ollama.models.small_a, messages=[])
    assert (answer.status_code, answer.text) == (404, "404 page not found")
