from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

import pytest
import requests

from tests.contract.server import Ollama, full


@pytest.mark.fact(7)
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("-1", 'time: missing unit in duration "-1"'),
        ("30", 'time: missing unit in duration "30"'),
        ("", 'time: invalid duration ""'),
        ("soon", 'time: invalid duration "soon"'),
        ("infinite", 'time: invalid duration "infinite"'),
        ("1d", 'time: unknown unit "d" in duration "1d"'),
        ("1H", 'time: unknown unit "H" in duration "1H"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("1.5.2h", 'time: missing unit in duration "1.5.2h"'),
        (True, "Unsupported type: 'bool'"),
        ([], "Unsupported type: '[]interface {}'"),
        ({}, "Unsupported type: 'map[string]interface {}'"),
    ],
)
def test_a_keep_alive_that_is_no_duration_is_refused(
    ollama: Ollama, value: object, text: str
) -> None:
    """Fact 7."""
    answer = ollama.generate(ollama.models.small_a, keep_alive=value)
    assert answer.status_code == 400
    assert answer.json() == {"error": text}
    assert ollama.ps() == []


@pytest.mark.fact(7)
@pytest.mark.parametrize("value", [-1, "-1s", "-1m", "-1h", "-1h30m", -0.5, -300])
def test_a_negative_keep_alive_is_for_ever(ollama: Ollama, value: object) -> None:
    """Fact 7: forever ends some 290 years ahead."""
    model = ollama.models.small_a
    ollama.load(model, keep_alive=value)
    years = ollama.minutes_left(model) / 60 / 24 / 365.25
    assert 290 < years < 294


@pytest.mark.fact(7)
@pytest.mark.parametrize(
    ("value", "minutes"),
    [
        ("30m", 30),
        ("1h30m", 90),
        (1800, 30),
        ("0.5h", 30),
        (".5h", 30),
        ("1.h", 60),
        ("24h", 1440),
        ("90s", 1.5),
        ("300s", 5),
        (300, 5),
        (90.5, 1.5),
        ("120000ms", 2),
        ("120000000us", 2),
        ("120000000µs", 2),
        ("+20m", 20),
    ],
)
def test_numbers_are_seconds_and_texts_are_go_durations(
    ollama: Ollama, value: object, minutes: float
) -> None:
    """Fact 7."""
    model = ollama.models.small_a
    ollama.load(model, keep_alive=value)
    assert minutes - 0.5 < ollama.minutes_left(model) <= minutes + 0.02


@pytest.mark.fact(8)
def test_nothing_shows_while_a_model_loads(ollama: Ollama) -> None:
    """Fact 8: `/api/ps` lists it only once it is there."""
    load = ollama.begin_load(ollama.models.a)
    rows = ollama.ps()
    assert not load.done()
    assert rows == []
    assert load.result().json()["done_reason"] == "load"
    assert ollama.names() == {full(ollama.models.a)}


@pytest.mark.fact(9)
def test_a_caller_that_goes_away_aborts_its_load(ollama: Ollama) -> None:
    """Fact 9: the next load, which waits for the first one, finds nothing loaded."""
    body = {"model": ollama.models.a, "prompt": "Hello", "keep_alive": "30m"}
    ollama.raw("/api/generate", body).close()
    ollama.load(ollama.models.small_a)
    assert ollama.names() == {full(ollama.models.small_a)}


@pytest.mark.fact(9)
def test_a_load_survives_that_another_caller_of_it_goes_away(ollama: Ollama) -> None:
    """Fact 9: only the loading request can abort the load."""
    model = ollama.models.a
    load = ollama.begin_load(model)
    ollama.raw("/api/generate", {"model": model, "prompt": "Hello"}).close()
    assert load.result().json()["done_reason"] == "load"
    assert ollama.names() == {full(model)}


@pytest.mark.fact(10)
def test_a_reply_that_ends_early_is_a_200_without_done(faulty: Ollama) -> None:
    """Fact 10."""
    faulty.fault("done_false", times=1)
    answer = faulty.generate(faulty.models.small_a)
    assert (answer.status_code, answer.json()["done"]) == (200, False)
    assert "done_reason" not in answer.json()


@pytest.mark.fact(10)
def test_a_reply_that_ends_before_it_began_names_no_model(faulty: Ollama) -> None:
    """Fact 10."""
    faulty.fault("done_false", tokens=0, times=1)
    answer = faulty.generate(faulty.models.small_a).json()
    assert (answer["model"], answer["response"], answer["done"]) == ("", "", False)


@pytest.mark.fact(11)
def test_what_a_request_may_choose_reloads_nothing(ollama: Ollama) -> None:
    """Fact 11: `num_predict`, `temperature` and the like."""
    model = ollama.models.a
    load = ollama.load(model)
    options = {"num_predict": 3, "temperature": 0.1, "top_p": 0.5, "seed": 7, "stop": ["x"]}
    answer = ollama.generate(model, options=options).json()
    assert answer["load_duration"] < load["load_duration"] / 2
    assert 29 < ollama.minutes_left(model) <= 30


@pytest.mark.fact(11)
def test_num_predict_limits_a_reply(ollama: Ollama) -> None:
    """Fact 11."""
    answer = ollama.generate(ollama.models.small_a, options={"num_predict": 5}).json()
    assert (answer["eval_count"], answer["done_reason"]) == (5, "length")


@pytest.mark.fact(12)
def test_another_context_length_loads_anew_and_forgets_the_keep_alive(ollama: Ollama) -> None:
    """Fact 12: for every client; five minutes is the server's default."""
    model = ollama.models.small_a
    ollama.load(model, keep_alive="30m")
    before = ollama.row(model)
    assert ollama.generate(model, options={"num_ctx": 1024}).json()["done"] is True
    after = ollama.row(model)
    assert after["context_length"] == 1024 != before["context_length"]
    assert after["size"] < before["size"]
    assert 4 < ollama.minutes_left(model) <= 5


@pytest.mark.fact(12)
def test_a_reload_takes_the_keep_alive_that_its_request_names(ollama: Ollama) -> None:
    """Fact 12."""
    model = ollama.models.small_a
    ollama.load(model, keep_alive="30m")
    ollama.generate(model, options={"num_ctx": 1024}, keep_alive="20m")
    assert 19 < ollama.minutes_left(model) <= 20


@pytest.mark.fact(12)
def test_a_request_without_the_option_takes_the_old_length_back(ollama: Ollama) -> None:
    """Fact 12: an absent option means the model's own."""
    model = ollama.models.small_a
    ollama.load(model)
    own = ollama.row(model)["context_length"]
    ollama.generate(model, options={"num_ctx": 1024})
    ollama.generate(model)
    assert ollama.row(model)["context_length"] == own


@pytest.mark.fact(13)
def test_a_clients_keep_alive_overwrites_the_one_before(ollama: Ollama) -> None:
    """Fact 13."""
    model = ollama.models.small_a
    ollama.load(model, keep_alive="30m")
    ollama.generate(model, keep_alive="1m")
    ollama.wait_minutes_left(model, more_than=0, at_most=1)


@pytest.mark.fact(13)
def test_a_request_without_keep_alive_restarts_the_clock_of_the_one_before(ollama: Ollama) -> None:
    """Fact 13: in `/api` and in `/v1`."""
    model = ollama.models.small_a
    ollama.load(model, keep_alive="30m")
    first = ollama.row(model)["expires_at"]
    ollama.generate(model)
    second = ollama.wait_expiry_after(model, first)
    messages = [{"role": "user", "content": "Hello"}]
    ollama.post("/v1/chat/completions", model=model, messages=messages, max_tokens=2)
    ollama.wait_expiry_after(model, second)
    assert 29 < ollama.minutes_left(model) <= 30


@pytest.mark.fact(13)
def test_v1_cannot_name_a_keep_alive(ollama: Ollama) -> None:
    """Fact 13: a first request under `/v1` gets the server's default."""
    model, messages = ollama.models.small_a, [{"role": "user", "content": "Hello"}]
    more = {"max_tokens": 2, "keep_alive": "30m"}
    ollama.post("/v1/chat/completions", model=model, messages=messages, **more)
    assert 4 < ollama.minutes_left(model) <= 5


@pytest.mark.fact(14)
def test_a_second_load_waits_for_the_first(ollama: Ollama) -> None:
    """Fact 14: one load at a time. Alone, the second one takes a fraction of the first one."""
    if ollama.simulated:
        ollama.fault("slow_load", tag=ollama.models.a, factor=3)
    first = ollama.begin_load(ollama.models.a)
    second = ollama.begin(ollama.generate, ollama.models.small_a)
    answers = [load.result().json()["created_at"] for load in (first, second)]
    answered = [datetime.fromisoformat(at) for at in answers]
    assert answered == sorted(answered)


@pytest.mark.fact(14)
def test_a_request_for_a_loaded_model_does_not_wait_for_a_load(ollama: Ollama) -> None:
    """Fact 14."""
    ollama.load(ollama.models.small_a)
    load = ollama.begin_load(ollama.models.a)
    assert ollama.generate(ollama.models.small_a).json()["done"] is True
    assert not load.done()
    load.result()


@pytest.mark.fact(14)
def test_first_requests_side_by_side_share_one_load(ollama: Ollama) -> None:
    """Fact 14."""
    model = ollama.models.a
    asked = [ollama.begin(ollama.generate, model) for _ in range(4)]
    assert all(a.result().json()["done"] for a in asked)
    assert [row["name"] for row in ollama.ps()] == [full(model)]


@pytest.mark.fact(14)
def test_at_the_limit_of_models_an_idle_one_is_evicted(started: Callable[..., Ollama]) -> None:
    """Fact 14: by the server itself; a missing model evicts nothing."""
    ollama = started("--max-loaded=1")
    ollama.load(ollama.models.a)
    ollama.load(ollama.models.b)
    assert ollama.names() == {full(ollama.models.b)}
    assert ollama.generate("contract-nope").status_code == 404
    assert ollama.names() == {full(ollama.models.b)}


@pytest.mark.fact(14)
def test_at_the_limit_of_models_a_busy_one_is_waited_for(started: Callable[..., Ollama]) -> None:
    """Fact 14."""
    ollama = started("--max-loaded=1")
    ollama.load(ollama.models.a)
    with ollama.talking(ollama.models.a):
        load = ollama.begin_load(ollama.models.b)
        assert ollama.names() == {full(ollama.models.a)}
        assert not load.done()
    assert load.result().json()["done_reason"] == "load"
    assert ollama.names() == {full(ollama.models.b)}


@pytest.mark.fact(14)
def test_a_full_queue_answers_503(started: Callable[..., Ollama]) -> None:
    """Fact 14: in the server's own words."""
    ollama = started("--max-loaded=1", "--max-queue=1")
    ollama.load(ollama.models.a)
    with ollama.talking(ollama.models.a):
        waiting = [ollama.begin_load(ollama.models.b) for _ in range(2)]
        refused = ollama.generate(ollama.models.small_a)
        loaded = ollama.begin(ollama.generate, ollama.models.a)
        ollama.round_trips()
    assert loaded.result().status_code == 200  # a loaded model needs no place in the queue
    text = "server busy, please try again.  maximum pending requests exceeded"
    assert (refused.status_code, refused.json()) == (503, {"error": text})
    for load in waiting:
        assert load.result().status_code == 200


@pytest.mark.fact(15)
@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("contract-nope", 404, "model 'contract-nope' not found"),
        ("contract-nope:7b", 404, "model 'contract-nope:7b' not found"),
        ("", 404, "model '' not found"),
        ("../x", 400, "invalid model name"),
        ("a b", 400, "invalid model name"),
    ],
)
def test_a_name_that_means_nothing_fails(ollama: Ollama, name: str, status: int, text: str) -> None:
    """Fact 15: another loaded model is not affected."""
    ollama.load(ollama.models.small_a)
    before = ollama.ps()
    answer = ollama.generate(name)
    assert (answer.status_code, answer.json()) == (status, {"error": text})
    assert ollama.ps() == before


@pytest.mark.fact(15)
def test_a_damaged_file_fails_with_its_reason_and_costs_nobody_else(faulty: Ollama) -> None:
    """Fact 15."""
    faulty.load(faulty.models.small_a)
    faulty.fault("fail_load", tag=faulty.models.a, message="invalid file magic", times=1)
    answer = faulty.generate(faulty.models.a)
    assert (answer.status_code, answer.json()) == (500, {"error": "invalid file magic"})
    assert faulty.names() == {full(faulty.models.small_a)}
    assert faulty.generate(faulty.models.a).json()["done"] is True


@pytest.mark.fact(15)
@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/v1/chat/completions"])
def test_a_load_that_fails_has_its_status_though_a_stream_was_asked_for(
    faulty: Ollama, path: str
) -> None:
    """Fact 15: nothing is sent before the first token."""
    faulty.fault("fail_load", times=1)
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": faulty.models.small_a, "prompt": "Hello", "messages": messages}
    answer = faulty.call("POST", path, {**body, "stream": True})
    assert answer.status_code == 500
    assert answer.headers["Content-Type"].startswith("application/json")
    assert "out of memory" in answer.text


@pytest.mark.fact(15)
def test_out_of_memory_may_evict_all_others_and_restores_nothing(faulty: Ollama) -> None:
    """Fact 15."""
    faulty.load(faulty.models.small_a)
    faulty.load(faulty.models.small_b)
    faulty.fault("fail_load", tag=faulty.models.a, evict_all=True, times=1)
    assert faulty.generate(faulty.models.a).status_code == 500
    assert faulty.ps() == []


@pytest.mark.fact(16)
@pytest.mark.parametrize("prompt", ["Hello", ""])
def test_an_embedding_model_does_not_generate(ollama: Ollama, prompt: str) -> None:
    """Fact 16: not even to be loaded."""
    model = ollama.models.embed
    answer = ollama.generate(model, prompt=prompt)
    assert answer.status_code == 400
    assert answer.json() == {"error": f'"{model}" does not support generate'}
    assert ollama.ps() == []


@pytest.mark.fact(16)
def test_an_embedding_model_is_warmed_by_an_embedding(ollama: Ollama) -> None:
    """Fact 16."""
    model = ollama.models.embed
    answer = ollama.post("/api/embed", model=model, input=["Hello", "you"], keep_alive="30m")
    assert [len(row) > 0 for row in answer.json()["embeddings"]] == [True, True]
    assert 29 < ollama.minutes_left(model) <= 30


@pytest.mark.fact(16)
def test_tags_and_show_tell_what_a_model_can_do(ollama: Ollama) -> None:
    """Fact 16."""
    rows = {row["name"]: row for row in ollama.get("/api/tags")["models"]}
    for model, word in ((ollama.models.a, "completion"), (ollama.models.embed, "embedding")):
        shown = ollama.post("/api/show", model=model).json()["capabilities"]
        assert word in shown
        # Servers up to 0.24 only report it in `/api/show`.
        assert rows[full(model)].get("capabilities", None if ollama.simulated else shown) == shown
    assert "completion" not in shown


@pytest.mark.fact(17)
def test_durations_are_nanoseconds(ollama: Ollama) -> None:
    """Fact 17: the parts fit into the total, and the total into the client's waiting time."""
    began = time.monotonic()
    answer = ollama.load(ollama.models.small_a)
    waited_ns = (time.monotonic() - began) * 1e9
    parts = ("load_duration", "prompt_eval_duration", "eval_duration")
    assert all(isinstance(answer[p], int) and answer[p] > 0 for p in parts)
    assert sum(answer[p] for p in parts) <= answer["total_duration"] * 1.1
    assert answer["total_duration"] <= waited_ns
    assert 1 < answer["eval_count"] / answer["eval_duration"] * 1e9 < 1e6


@pytest.mark.fact(8)
def test_an_answer_comes_only_when_the_model_is_there(ollama: Ollama) -> None:
    """Fact 8: a streamed reply does not even send its head before."""
    body = {"model": ollama.models.a, "prompt": "Hello", "options": {"num_predict": 2}}
    if ollama.simulated:
        ollama.fault("slow_load", tag=ollama.models.a, factor=1000)
    with pytest.raises(requests.Timeout):
        requests.post(f"{ollama.url}/api/generate", json=body, stream=True, timeout=0.1)
