from __future__ import annotations

import pytest

from tests.contract.server import Ollama, full
from tests.until import until


@pytest.mark.fact(18)
def test_ps_tells_name_digest_bytes_and_context_and_no_more_of_the_host(ollama: Ollama) -> None:
    """Fact 18: nothing about the host's VRAM or running requests."""
    model = ollama.models.small_a
    ollama.load(model)
    answer = ollama.get("/api/ps")
    assert set(answer) == {"models"}
    row = answer["models"][0]
    assert row["digest"] == ollama.digest(model)
    assert 0 <= row["size_vram"] <= row["size"]
    assert row["context_length"] > 0
    fields = "name model digest size size_vram context_length expires_at details"
    assert set(row) == set(fields.split())


@pytest.mark.fact(18)
def test_a_model_takes_more_memory_than_its_file(ollama: Ollama) -> None:
    """Fact 18."""
    model = ollama.models.a
    ollama.load(model)
    files = {row["name"]: row["size"] for row in ollama.get("/api/tags")["models"]}
    assert ollama.row(model)["size"] > files[full(model)]


@pytest.mark.fact(18)
def test_the_one_that_stays_longest_is_listed_first(ollama: Ollama) -> None:
    """Fact 18."""
    first, second = ollama.models.small_a, ollama.models.small_b
    ollama.load(first, keep_alive="20m")
    ollama.load(second, keep_alive="10m")
    assert [row["name"] for row in ollama.ps()] == [full(first), full(second)]
    ollama.generate(second, keep_alive="30m")
    until(lambda: [row["name"] for row in ollama.ps()] == [full(second), full(first)])


@pytest.mark.fact(18)
def test_the_expiry_stands_still_while_a_request_runs(ollama: Ollama) -> None:
    """Fact 18: it is counted from the end of the last request."""
    model = ollama.models.a
    ollama.load(model)
    before = ollama.row(model)["expires_at"]
    with ollama.talking(model):
        assert ollama.row(model)["expires_at"] == before
    ollama.wait_expiry_after(model, before)


@pytest.mark.fact(19)
def test_a_dead_runner_is_listed_until_the_next_request_loads_it_anew(faulty: Ollama) -> None:
    """Fact 19: with that request's keep-alive, or the default."""
    model = faulty.models.a
    faulty.load(model, keep_alive="30m")
    faulty.fault("kill_runner", tag=model)
    assert 29 < faulty.minutes_left(model) <= 30
    answer = faulty.generate(model).json()
    assert answer["done"] is True
    assert answer["load_duration"] > 100_000_000
    assert 4 < faulty.minutes_left(model) <= 5


@pytest.mark.fact(19)
def test_a_reply_during_which_the_runner_dies_is_a_500(faulty: Ollama) -> None:
    """Fact 19."""
    model = faulty.models.a
    faulty.load(model)
    options = {"num_predict": 400}
    reply = faulty.begin(faulty.generate, model, options=options)
    until(lambda: faulty.state()["in_flight"])
    faulty.fault("kill_runner", tag=model)
    text = "an error was encountered while running the model: unexpected EOF"
    assert (reply.result().status_code, reply.result().json()) == (500, {"error": text})
    assert faulty.names() == {full(model)}


@pytest.mark.fact(19)
def test_a_stream_during_which_the_runner_dies_ends_in_an_error_line(faulty: Ollama) -> None:
    """Fact 19: too late for a status."""
    model = faulty.models.a
    faulty.load(model)
    with faulty.talking(model) as lines:
        faulty.fault("kill_runner", tag=model)
        *_, last = [line for line in lines if line]
    assert b"unexpected EOF" in last


@pytest.mark.fact(20)
def test_a_name_without_a_tag_means_latest(ollama: Ollama) -> None:
    """Fact 20: lists give the full name, and either spelling is the same model."""
    model = ollama.models.small_a
    load = ollama.load(model)
    assert load["model"] == model
    assert ollama.names() == {full(model)}
    assert full(model) in ollama.digests()
    assert ollama.generate(full(model)).json()["model"] == full(model)
    assert len(ollama.ps()) == 1


@pytest.mark.fact(20)
def test_upper_and_lower_case_are_the_same_name(ollama: Ollama) -> None:
    """Fact 20."""
    model = ollama.models.small_a
    ollama.load(model.upper())
    assert ollama.names() == {full(model)}
