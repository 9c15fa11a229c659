from __future__ import annotations

import time

import pytest
import requests

from ollama_simulator.faults import ACTS, FAULTS, BadFault, read_fault
from tests.contract.server import Ollama, full
from tests.until import until


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ([], "a fault must be an object with a kind"),
        ({}, "no fault of kind None; there are: fail_load, cpu"),
        ({"kind": "fire"}, "no fault of kind 'fire'"),
        ({"kind": "cpu", "path": "/"}, "cpu has no field 'path'; it has: share, tag, times"),
        ({"kind": "cpu", "share": 2}, "share must be from 0.0 to 1.0, not 2"),
        ({"kind": "cpu", "share": "all"}, "share must be a number, not 'all'"),
        ({"kind": "cpu", "share": True}, "share must be a number, not True"),
        ({"kind": "hang", "times": 0}, "times must be from 1"),
        ({"kind": "hang", "times": 1.5}, "times must be a whole number"),
        ({"kind": "fail_load", "evict_all": 1}, "evict_all must be true or false"),
        ({"kind": "fail_load", "tag": 1}, "tag must be a text"),
        ({"kind": "evict"}, "evict needs a tag"),
        ({"kind": "restart", "times": 2}, "restart has no field 'times'"),
    ],
)
def test_what_is_no_fault_is_refused_in_words(row: object, text: str) -> None:
    with pytest.raises(BadFault) as caught:
        read_fault(row)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("kind", [*FAULTS, *ACTS])
def test_every_kind_has_what_it_needs_but_a_tag(kind: str) -> None:
    tag = {"tag": "x"} if "tag" in (FAULTS | ACTS)[kind] else {}
    assert read_fault({"kind": kind, **tag}).kind == kind


def test_a_bad_fault_is_a_400(ollama: Ollama) -> None:
    for body in ({"kind": "fire"}, {"kind": "repull", "tag": "nope"}):
        answer = ollama.call("POST", "/_sim/faults", body)
        assert answer.status_code == 400
        assert answer.json()["error"]


def test_a_fault_strikes_as_often_as_it_says(ollama: Ollama) -> None:
    ollama.fault("error", path="/api/tags", status=503, message="no", times=2)
    answers = [ollama.call("GET", "/api/tags") for _ in range(3)]
    assert [a.status_code for a in answers] == [503, 503, 200]
    assert answers[0].json() == {"error": "no"}
    assert ollama.call("GET", "/api/ps").status_code == 200
    assert ollama.state()["faults"] == []


def test_faults_stay_until_they_are_cleared(ollama: Ollama) -> None:
    ollama.fault("error")
    assert ollama.call("GET", "/v1/models").json()["error"]["type"] == "api_error"
    assert ollama.call("DELETE", "/_sim/faults").status_code == 200
    assert ollama.call("GET", "/v1/models").status_code == 200


def test_hang_never_answers(ollama: Ollama) -> None:
    ollama.fault("hang", path="/api/ps")
    with pytest.raises(requests.ReadTimeout):
        requests.get(f"{ollama.url}/api/ps", timeout=0.1)
    ollama.call("DELETE", "/_sim/faults")
    assert ollama.ps() == []


def test_half_breaks_off(ollama: Ollama) -> None:
    ollama.fault("half", path="/api/tags", times=1)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        ollama.get("/api/tags")


def test_drip_is_whole_in_the_end(ollama: Ollama) -> None:
    ollama.fault("drip", path="/api/version", seconds=0.002, times=1)
    assert ollama.get("/api/version") == {"version": "0.0.0-simulated"}


def test_html_is_a_200(ollama: Ollama) -> None:
    ollama.fault("html", path="/api/ps", times=1)
    answer = ollama.call("GET", "/api/ps")
    assert (answer.status_code, answer.headers["Content-Type"][:9]) == (200, "text/html")


def test_huge_is_as_large_as_it_says(ollama: Ollama) -> None:
    ollama.fault("huge", path="/api/ps", bytes=3_000_000, times=1)
    assert len(ollama.call("GET", "/api/ps").content) == 3_000_000


def test_redirect_leads_elsewhere(ollama: Ollama) -> None:
    ollama.fault("redirect", path="/api/ps", location="http://127.0.0.1:1/", times=1)
    answer = ollama.call("GET", "/api/ps", allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (302, "http://127.0.0.1:1/")


def test_delay_comes_before_the_answer(ollama: Ollama) -> None:
    ollama.fault("delay", path="/api/ps", seconds=0.1, times=1)
    began = time.monotonic()
    ollama.ps()
    assert time.monotonic() - began >= 0.1


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_cut_stream_breaks_the_connection_after_some_tokens(ollama: Ollama, path: str) -> None:
    ollama.fault("cut_stream", tokens=2, times=1)
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": "tiny-a", "messages": messages, "stream": True}
    parts = []
    with (
        pytest.raises(requests.exceptions.ChunkedEncodingError),
        ollama.call("POST", path, body, stream=True) as response,
    ):
        parts += [line for line in response.iter_lines(chunk_size=1) if line]
    assert response.status_code == 200
    assert len(parts) <= 2


def test_cut_stream_gives_no_answer_where_none_is_streamed(ollama: Ollama) -> None:
    ollama.fault("cut_stream", tokens=2, times=1)
    with pytest.raises(requests.ConnectionError):
        ollama.generate("tiny-a")


def test_done_false_ends_a_stream_without_its_last_part(ollama: Ollama) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": "tiny-a", "messages": messages, "stream": True}
    for path, lines in (("/api/chat", 2), ("/v1/chat/completions", 2), ("/v1/responses", 0)):
        ollama.fault("done_false", tokens=2, times=1)
        answer = ollama.call("POST", path, body | {"input": "Hello"})
        assert answer.status_code == 200
        assert '"done":true' not in answer.text
        assert "[DONE]" not in answer.text
        assert "response.completed" not in answer.text
        if lines:
            assert len([line for line in answer.text.splitlines() if line]) == lines


def test_restart_empties_the_server_and_breaks_what_runs(ollama: Ollama) -> None:
    ollama.load("tiny-a")
    reply = ollama.begin(ollama.generate, "tiny-a", options={"num_predict": 4000})
    until(lambda: ollama.state()["in_flight"])
    ollama.fault("restart")
    assert isinstance(reply.exception(), requests.ConnectionError)
    until(lambda: ollama.ps() == [])
    assert full("tiny-a") in ollama.digests()


def test_refuse_lets_nobody_in_for_a_while(ollama: Ollama) -> None:
    ollama.fault("refuse", seconds=0.3)
    with pytest.raises(requests.ConnectionError):
        for _ in range(50):
            ollama.call("GET", "/api/version")

    def back() -> bool:
        try:
            return ollama.call("GET", "/api/version").ok
        except requests.ConnectionError:
            return False

    until(back)


def test_evict_takes_a_model_away(ollama: Ollama) -> None:
    ollama.load("tiny-a")
    assert ollama.fault("evict", tag="tiny-a").json() == {"done": True}
    assert ollama.ps() == []
    assert ollama.fault("evict", tag="tiny-a").json() == {"done": False}


def test_acts_have_an_address_of_their_own_too(ollama: Ollama) -> None:
    ollama.load("tiny-a")
    assert ollama.post("/_sim/acts", act="evict", tag="tiny-a").json() == {"done": True}
    assert ollama.post("/_sim/acts", act="hang").status_code == 400


def test_a_repulled_model_says_that_it_is_another(ollama: Ollama) -> None:
    ollama.copy("tiny-a", "contract-x")
    ollama.fault("repull", tag="contract-x")
    assert ollama.generate("contract-x").json()["response"].startswith("[tiny-a@2] ")


def test_the_state_tells_what_was_asked_and_what_came_of_it(ollama: Ollama) -> None:
    before = ollama.state()
    ollama.load("tiny-a", keep_alive="7m")
    ollama.unload("tiny-a")
    ollama.wait_gone("tiny-a")
    state = ollama.state()
    for what in ("loads", "unloads", "served"):
        assert state[what]["tiny-a:latest"] == before[what].get("tiny-a:latest", 0) + 1
    assert (state["in_flight"], state["pending"], state["loading"]) == (0, 0, None)
    calls = [row for row in state["journal"] if row.get("path") == "/api/generate"]
    assert [row["keep_alive"] for row in calls[-2:]] == ["7m", 0]
    assert all(row["status"] == 200 and row["seconds"] >= 0 for row in calls[-2:])
    assert "prompt" not in calls[-1]
    times = [row["at"] for row in state["journal"]]
    assert times == sorted(times)
