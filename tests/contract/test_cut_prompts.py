"""A prompt that is longer than the loaded context is cut, and no reply says so."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.server import Ollama

pytestmark = pytest.mark.fact(30)
CONTEXT = 256
OPTIONS = {"num_ctx": CONTEXT, "num_predict": 2}


def chat(ollama: Ollama, *messages: str) -> Any:
    rows = [{"role": "user", "content": text} for text in messages]
    model = ollama.models.small_a
    return ollama.post(
        "/api/chat", model=model, messages=rows, options=OPTIONS, stream=False
    ).json()


def test_one_long_message_fills_the_context_or_half_of_it(ollama: Ollama) -> None:
    reply = chat(ollama, "hello " * 900)
    assert reply["prompt_eval_count"] in {CONTEXT, CONTEXT - 1, *range(129, 132)}
    assert reply["done"] is True


def test_a_long_chat_loses_its_oldest_messages(ollama: Ollama) -> None:
    assert 100 < chat(ollama, *["hello " * 20] * 30)["prompt_eval_count"] <= CONTEXT
