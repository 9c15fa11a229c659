from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.contract.server import Ollama


@pytest.mark.fact(1)
def test_an_unload_is_answered_before_it_happens(ollama: Ollama) -> None:
    """Fact 1: the answer says `unload`; only `/api/ps` tells when the model is gone."""
    model = ollama.models.a
    ollama.load(model)
    answer = ollama.unload(model)
    assert answer.status_code == 200
    assert answer.json()["done_reason"] == "unload"
    assert answer.json()["response"] == ""
    ollama.wait_gone(model)


@pytest.mark.fact(2)
def test_a_busy_model_stays_until_its_request_ends(ollama: Ollama) -> None:
    """Fact 2: its expiry jumps to now, but it stays listed."""
    model = ollama.models.a
    ollama.load(model)
    with ollama.talking(model, keep_alive="30m"):
        assert ollama.unload(model).json()["done_reason"] == "unload"
        row = ollama.row(model)
        assert datetime.fromisoformat(row["expires_at"]) <= datetime.now(UTC)
        ollama.round_trips()
        assert ollama.row(model)["digest"] == row["digest"]
    ollama.wait_gone(model)


@pytest.mark.fact(3)
def test_another_request_with_a_keep_alive_cancels_the_unload(ollama: Ollama) -> None:
    """Fact 3: silently; the model stays, as long as that request says."""
    model = ollama.models.a
    load = ollama.load(model)
    with ollama.talking(model, keep_alive="30m"):
        ollama.unload(model)
        second = ollama.begin(ollama.generate, model, keep_alive="10m")
        ollama.round_trips()
        assert not second.done()
    answer = second.result().json()
    assert answer["load_duration"] < load["load_duration"] / 2  # it was never gone
    ollama.wait_minutes_left(model, more_than=9, at_most=10)


@pytest.mark.fact(4)
def test_an_unload_while_the_model_loads_does_nothing(ollama: Ollama) -> None:
    """Fact 4: it says `unload`; then the load completes and stays, with its keep-alive."""
    model = ollama.models.a
    load = ollama.begin_load(model, keep_alive="30m")
    assert ollama.unload(model).json()["done_reason"] == "unload"
    assert not load.done()
    assert load.result().json()["done_reason"] == "load"
    assert 29 < ollama.minutes_left(model) <= 30


@pytest.mark.fact(5)
def test_unloading_what_is_not_loaded_says_the_same(ollama: Ollama) -> None:
    """Fact 5."""
    answer = ollama.unload(ollama.models.a)
    assert (answer.status_code, answer.json()["done_reason"]) == (200, "unload")
    assert ollama.ps() == []


@pytest.mark.fact(5)
def test_unloading_what_does_not_exist_is_a_404(ollama: Ollama) -> None:
    """Fact 5."""
    answer = ollama.unload("contract-nope")
    assert answer.status_code == 404
    assert answer.json() == {"error": "model 'contract-nope' not found"}


@pytest.mark.fact(6)
@pytest.mark.parametrize("nothing", [0, "0", "0s", 0.0])
def test_zero_in_all_its_spellings_unloads(ollama: Ollama, nothing: object) -> None:
    """Fact 6."""
    model = ollama.models.small_a
    ollama.load(model)
    answer = ollama.post("/api/generate", model=model, prompt="", keep_alive=nothing)
    assert answer.json()["done_reason"] == "unload"
    ollama.wait_gone(model)


@pytest.mark.fact(6)
def test_a_chat_without_messages_unloads(ollama: Ollama) -> None:
    """Fact 6."""
    model = ollama.models.small_a
    ollama.load(model)
    answer = ollama.post("/api/chat", model=model, messages=[], keep_alive=0)
    assert answer.json()["done_reason"] == "unload"
    assert answer.json()["message"] == {"role": "assistant", "content": ""}
    ollama.wait_gone(model)


@pytest.mark.fact(6)
def test_an_embedding_model_is_unloaded_by_generate(ollama: Ollama) -> None:
    """Fact 6: though it does not generate."""
    model = ollama.models.embed
    assert ollama.post("/api/embed", model=model, input="Hello").status_code == 200
    assert ollama.unload(model).json()["done_reason"] == "unload"
    ollama.wait_gone(model)


@pytest.mark.fact(1)
def test_a_reply_with_keep_alive_zero_is_given_and_then_the_model_goes(ollama: Ollama) -> None:
    """Fact 1: with a prompt, 0 is how long it stays after the reply."""
    model = ollama.models.small_a
    answer = ollama.generate(model, keep_alive=0).json()
    assert answer["done"] is True
    assert answer["done_reason"] != "unload"
    ollama.wait_gone(model)


@pytest.mark.fact(27)
def test_an_idle_model_is_gone_soon_after_its_unload(ollama: Ollama) -> None:
    """Fact 27: 21 ms as measured; far below two seconds anywhere."""
    model = ollama.models.small_a
    ollama.load(model)
    ollama.unload(model)
    ollama.wait_gone(model, seconds=2)
