"""What the client sends to an Ollama server, and how it reads the answers (of the recordings)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import responses
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Observation, Resident
from switcher.domain.servers import VIA
from switcher.domain.specs import Spec, WarmUp
from switcher.ollama.calls import MAX_CONTAINERS, Call
from switcher.ollama.client import Client
from switcher.ollama.errors import (
    AddressRefused,
    BadAnswer,
    ModelMissing,
    NotDone,
    OllamaError,
    Refused,
    ServerBusy,
    Unreachable,
)
from tests.ollama.rawserver import Peer, json_answer, raw_server

URL = "http://tower.test:11434"
NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
HELLO = WarmUp("Hello", 8)
DIGEST = "2cf1c02c0000c367ff0c0910c07ac963d8c76d1ecb12a0a5e4de55a5f74f924f"

# As in recordings/lifecycle.json, shortened.
PS_ROW: dict[str, Any] = {
    "name": "mid-a:latest",
    "model": "mid-a:latest",
    "size": 574535761,
    "digest": DIGEST,
    "details": {"format": "gguf", "family": "llama", "parameter_size": "206.22M"},
    "expires_at": "2026-11-23T09:02:19.71412656Z",
    "size_vram": 0,
    "context_length": 2048,
}
TAGS_ROW: dict[str, Any] = {
    "name": "embed:latest",
    "model": "embed:latest",
    "modified_at": "2026-11-23T08:45:41.345956087Z",
    "size": 834578,
    "digest": "14bba91a786d738cd30998e97e7881b1572635e0f64e06c18cffc56e9d9f9165",
    "details": {"parent_model": "", "format": "gguf"},
    "capabilities": ["embedding"],
}
LOADED: dict[str, Any] = {
    "model": "mid-a",
    "created_at": "2026-11-23T08:57:19.713933566Z",
    "response": "",
    "done": True,
    "done_reason": "load",
}
WARMED: dict[str, Any] = {
    "model": "mid-a",
    "created_at": "2026-11-23T08:57:20.002620383Z",
    "response": "apppapap",
    "done": True,
    "done_reason": "length",
    "total_duration": 286789144,
    "load_duration": 1369701,
    "prompt_eval_count": 7,
    "prompt_eval_duration": 56121000,
    "eval_count": 8,
    "eval_duration": 225843000,
}
UNLOADED = LOADED | {"done_reason": "unload"}
EMBEDDED: dict[str, Any] = {
    "model": "embed",
    "embeddings": [[-0.082858294, -0.06814642]],
    "total_duration": 260869243,
    "load_duration": 255862039,
    "prompt_eval_count": 7,
}
RECORDINGS = Path(__file__).parent / "recordings"


@pytest.fixture
def http() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        yield mock


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client(URL + "/")
    yield made
    made.close()


def spec(**values: Any) -> Spec:
    return Spec(**{"profile": "a", "tag": "mid-a", **values})


def sent(http: responses.RequestsMock, n: int = -1) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(http.calls[n].request.body)
    return body


def answer(
    http: responses.RequestsMock, path: str, body: Any, status: int = 200, method: str = "POST"
) -> None:
    http.add(method, URL + path, json=body, status=status)


def read_ps(http: responses.RequestsMock, client: Client, **changes: Any) -> Resident:
    row = {k: v for k, v in (PS_ROW | changes).items() if v is not ...}
    answer(http, "/api/ps", {"models": [row]}, method="GET")
    return client.resident()[0]


# --- requests ----------------------------------------------------------------------------


@pytest.mark.fact(7)
@pytest.mark.parametrize(
    ("keep_alive", "wire"), [("forever", -1), ("0", 0), ("30m", "30m"), ("1h30m", "1h30m")]
)
@pytest.mark.parametrize("act", ["load", "warm", "load embed", "warm embed"])
def test_a_keep_alive_is_sent_in_the_form_that_the_server_accepts(
    http: responses.RequestsMock, client: Client, keep_alive: str, wire: object, act: str
) -> None:
    answer(http, "/api/generate", WARMED)
    answer(http, "/api/embed", EMBEDDED)
    asked, embeds = spec(keep_alive=keep_alive), act.endswith("embed")
    if act.startswith("load"):
        client.load(asked, embeds, 5, Call())
    else:
        client.warm(asked, HELLO, embeds, 5, Call())
    value = sent(http)["keep_alive"]
    assert value == wire
    assert type(value) is type(wire), "forever is the number -1, never the string"


@pytest.mark.fact(11)
@pytest.mark.parametrize("limit", [1, 8, 512])
def test_every_warm_up_limits_how_much_the_model_generates(
    http: responses.RequestsMock, client: Client, limit: int
) -> None:
    answer(http, "/api/generate", WARMED)
    client.warm(spec(options={"num_ctx": 4096}), WarmUp("Hello", limit), False, 5, Call())
    assert sent(http)["options"] == {"num_ctx": 4096, "num_predict": limit}
    assert sent(http)["prompt"] == "Hello"


@pytest.mark.fact(12)
@pytest.mark.parametrize("embeds", [False, True])
def test_runner_options_are_sent_with_every_call_about_a_model(
    http: responses.RequestsMock, client: Client, embeds: bool
) -> None:
    answer(http, "/api/generate", WARMED)
    answer(http, "/api/embed", EMBEDDED)
    asked = spec(options={"num_ctx": 8192, "num_gpu": 20, "temperature": 0.5})
    client.load(asked, embeds, 5, Call())
    client.warm(asked, HELLO, embeds, 5, Call())
    for n in (0, 1):
        options = sent(http, n)["options"]
        options.pop("num_predict", None)
        assert options == {"num_ctx": 8192, "num_gpu": 20}, (
            "options that reload nothing are not sent"
        )
    assert asked.options == {"num_ctx": 8192, "num_gpu": 20, "temperature": 0.5}


@pytest.mark.fact(12)
def test_without_runner_options_none_are_sent(http: responses.RequestsMock, client: Client) -> None:
    answer(http, "/api/generate", LOADED)
    client.load(spec(options={"temperature": 0.5}), False, 5, Call())
    assert sent(http) == {"model": "mid-a", "prompt": "", "stream": False, "keep_alive": "30m"}


@pytest.mark.fact(6)
def test_an_unload_sends_the_number_zero_and_no_options(
    http: responses.RequestsMock, client: Client
) -> None:
    answer(http, "/api/generate", UNLOADED)
    client.unload("mid-a:latest")
    assert sent(http) == {"model": "mid-a:latest", "prompt": "", "stream": False, "keep_alive": 0}


@pytest.mark.fact(1)
def test_an_unload_does_not_wait_for_the_model_to_leave(
    http: responses.RequestsMock, client: Client
) -> None:
    answer(http, "/api/generate", UNLOADED)
    client.unload("mid-a")
    assert len(http.calls) == 1, "only /api/ps tells whether the model has left"


@pytest.mark.fact(16)
def test_an_embedding_model_is_loaded_and_warmed_by_embed(
    http: responses.RequestsMock, client: Client
) -> None:
    answer(http, "/api/generate", {"error": '"embed" does not support generate'}, 400)
    answer(http, "/api/embed", EMBEDDED)
    load_s = client.load(spec(tag="embed"), True, 5, Call())
    warmed = client.warm(spec(tag="embed"), WarmUp("Bonjour", 8), True, 5, Call())
    assert load_s == pytest.approx(0.255862039)
    assert (warmed.tokens, warmed.tokens_per_s) == (0, 0.0)
    assert warmed.seconds == pytest.approx(0.260869243)
    assert sent(http)["input"] == "Bonjour"


def test_a_trailing_slash_of_an_address_is_ignored(
    http: responses.RequestsMock, client: Client
) -> None:
    answer(http, "/api/ps", {"models": []}, method="GET")
    assert client.resident() == ()
    assert http.calls[0].request.url == URL + "/api/ps"


# --- answers -----------------------------------------------------------------


@pytest.mark.fact(17)
def test_durations_are_nanoseconds(http: responses.RequestsMock, client: Client) -> None:
    answer(http, "/api/generate", WARMED | {"load_duration": 510832826})
    assert client.load(spec(), False, 5, Call()) == pytest.approx(0.510832826)
    warmed = client.warm(spec(), HELLO, False, 5, Call())
    assert warmed.tokens == 8
    assert warmed.tokens_per_s == pytest.approx(8 / 225843000 * 1e9)
    assert warmed.seconds == pytest.approx(0.286789144)


def test_a_load_without_figures_is_a_success(http: responses.RequestsMock, client: Client) -> None:
    answer(http, "/api/generate", LOADED)
    assert 0 < client.load(spec(), False, 5, Call()) < 5, "the time that was waited"


@pytest.mark.fact(10)
@pytest.mark.parametrize(
    "body",
    [
        WARMED | {"done": False},
        {"model": "", "created_at": "0001-01-01T00:00:00Z", "response": "", "done": False},
        {},
        WARMED | {"done": "true"},
        WARMED | {"done": 1},
    ],
)
@pytest.mark.parametrize("act", ["load", "warm"])
def test_a_200_without_done_true_is_no_success(
    http: responses.RequestsMock, client: Client, body: dict[str, Any], act: str
) -> None:
    answer(http, "/api/generate", body)
    with pytest.raises(NotDone, match="mid-a ended early"):
        if act == "load":
            client.load(spec(), False, 5, Call())
        else:
            client.warm(spec(), HELLO, False, 5, Call())


@pytest.mark.parametrize("embeddings", [None, [], [[]], "text", 5, {"a": 1}, ...])
def test_a_warm_up_without_an_embedding_is_no_success(
    http: responses.RequestsMock, client: Client, embeddings: Any
) -> None:
    body = EMBEDDED | {"embeddings": embeddings}
    answer(http, "/api/embed", {k: v for k, v in body.items() if v is not ...})
    with pytest.raises(NotDone, match="without an embedding"):
        client.warm(spec(tag="embed"), HELLO, True, 5, Call())


@pytest.mark.fact(15)
@pytest.mark.parametrize(
    ("status", "message", "kind"),
    [
        (404, "model 'nope' not found", ModelMissing),
        (404, 'model "tiny-b" not found, try pulling it first', ModelMissing),
        (400, "invalid model name", Refused),
        (400, 'time: missing unit in duration "-1"', Refused),
        (400, '"embed" does not support generate', Refused),
        (500, "invalid file magic", Refused),
        (500, "an error was encountered while running the model: unexpected EOF", Refused),
        (503, "server busy, please try again.  maximum pending requests exceeded", ServerBusy),
    ],
)
def test_an_error_keeps_the_servers_own_words(
    http: responses.RequestsMock, client: Client, status: int, message: str, kind: type[Refused]
) -> None:
    answer(http, "/api/generate", {"error": message}, status)
    with pytest.raises(Refused) as caught:
        client.load(spec(), False, 5, Call())
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.message) == (status, message)
    assert caught.value.text == f"Ollama answered {status}: {message}"


@pytest.mark.fact(5)
def test_unloading_a_missing_model_is_its_own_error(
    http: responses.RequestsMock, client: Client
) -> None:
    answer(http, "/api/generate", {"error": "model 'doomed' not found"}, 404)
    with pytest.raises(ModelMissing):
        client.unload("doomed")


@pytest.mark.fact(25)
@pytest.mark.parametrize("status", [400, 404, 405, 500, 502, 503])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "404 page not found",
        "<html>Bad Gateway</html>",
        "[]",
        "{}",
        '{"error": null}',
        '{"error": {"type": "security_exception", "reason": "of a search engine"}}',
    ],
)
def test_an_error_without_a_message_is_a_bad_answer(
    http: responses.RequestsMock, client: Client, status: int, text: str
) -> None:
    http.add("GET", URL + "/api/ps", body=text, status=status)
    with pytest.raises(BadAnswer, match=f"answered {status} without saying why"):
        client.resident()


@pytest.mark.parametrize(
    ("path", "status", "hint"),
    [
        (
            "",
            403,
            "let the proxy in front of it send Host: localhost",
        ),
        ("", 403, "an Origin that OLLAMA_ORIGINS does not list"),
        ("", 401, "wants credentials: set them on the host"),
        ("/v1", 404, "The host's address ends in /v1: write it without"),
        ("/api", 404, "The host's address ends in /api: write it without"),
    ],
)
def test_an_answer_without_a_reason_comes_with_what_it_usually_means(
    http: responses.RequestsMock, path: str, status: int, hint: str
) -> None:
    http.add("GET", f"{URL}{path}/api/ps", body="", status=status)
    with pytest.raises(BadAnswer, match=re.escape(hint)):
        Client(URL + path).resident()


@pytest.mark.parametrize("error", ["half \ud800 a pair", "nul \x00", "two\nlines", "x" * 100_000])
def test_messages_of_the_server_can_be_stored_and_shown(
    http: responses.RequestsMock, client: Client, error: str
) -> None:
    http.add("GET", URL + "/api/ps", body=json.dumps({"error": error}), status=500)
    with pytest.raises(Refused) as caught:
        client.resident()
    assert caught.value.text.isprintable()
    assert len(caught.value.text) < 600
    caught.value.text.encode()


@pytest.mark.fact(18)
def test_a_row_of_ps_is_read(http: responses.RequestsMock, client: Client) -> None:
    assert read_ps(http, client) == Resident(
        name=ModelName.parse("mid-a"),
        digest=DIGEST,
        size=574535761,
        size_vram=0,
        context_length=2048,
        expires_at=datetime(2026, 11, 23, 9, 2, 19, 714126, tzinfo=UTC),
    )


@pytest.mark.fact(7)
def test_forever_is_some_290_years_ahead(http: responses.RequestsMock, client: Client) -> None:
    row = read_ps(http, client, expires_at="2319-03-05T08:44:36.997115614Z")
    assert row.stays
    assert row.expires_at is not None
    assert row.expires_at.year == 2319


@pytest.mark.parametrize("digits", range(1, 10))
@pytest.mark.parametrize(("zone", "hours"), [("Z", 0), ("+02:00", -2), ("-05:30", 5.5)])
def test_a_time_has_up_to_nine_digits_of_a_second_and_any_zone(
    http: responses.RequestsMock, client: Client, digits: int, zone: str, hours: float
) -> None:
    fraction = "123456789"[:digits]
    row = read_ps(http, client, expires_at=f"2026-11-23T09:02:19.{fraction}{zone}")
    micro = int(fraction[:6].ljust(6, "0"))
    at = datetime(2026, 11, 23, 9, 2, 19, micro, tzinfo=UTC) + timedelta(hours=hours)
    assert row.expires_at == at
    assert row.expires_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize("missing", [None, "", ...])
def test_a_row_without_a_time_has_none(
    http: responses.RequestsMock, client: Client, missing: Any
) -> None:
    row = read_ps(http, client, expires_at=missing)
    assert row.expires_at is None
    assert not row.stays


def test_an_older_server_may_omit_vram_and_context(
    http: responses.RequestsMock, client: Client
) -> None:
    row = read_ps(http, client, size_vram=..., context_length=...)
    assert (row.size_vram, row.context_length, row.gpu_percent) == (0, 0, 0)


@pytest.mark.fact(16)
def test_a_row_of_tags_lists_capabilities(http: responses.RequestsMock, client: Client) -> None:
    both = TAGS_ROW | {"name": "both:latest", "capabilities": ["completion", "embedding"]}
    bare = {k: v for k, v in TAGS_ROW.items() if k != "capabilities"}
    answer(http, "/api/tags", {"models": [TAGS_ROW, both, bare]}, method="GET")
    first, second, third = client.installed()
    assert first == Installed(ModelName.parse("embed"), TAGS_ROW["digest"], 834578, ("embedding",))
    assert [i.embeds_only for i in (first, second, third)] == [True, False, False]


@pytest.mark.parametrize("path", ["/api/ps", "/api/tags"])
def test_a_list_that_is_null_is_empty(
    http: responses.RequestsMock, client: Client, path: str
) -> None:
    answer(http, path, {"models": None}, method="GET")
    assert (client.resident() if path == "/api/ps" else client.installed()) == ()


@pytest.mark.parametrize("path", ["/api/ps", "/api/tags", "/api/generate", "/api/embed"])
def test_every_recorded_answer_is_understood(
    http: responses.RequestsMock, client: Client, path: str
) -> None:
    read = 0
    for file in sorted(RECORDINGS.glob("*.json")):
        for step in json.loads(file.read_text()):
            request, response = step.get("request") or {}, step.get("response") or {}
            if request.get("path") != path or "json" not in response:
                continue
            http.reset()
            body, method = response["json"], request["method"]
            answer(http, path, body, response["status"], method)
            if path == "/api/ps":
                assert len(client.resident()) == len(body["models"])
            elif path == "/api/tags":
                assert len(client.installed()) == len(body["models"])
            elif response["status"] == 200 and body.get("done", True) is True:
                client.warm(spec(), HELLO, path == "/api/embed", 5, Call())
            else:
                with pytest.raises(OllamaError):
                    client.warm(spec(), HELLO, path == "/api/embed", 5, Call())
            read += 1
    assert read


# --- hostile answers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        "<html>It works!</html>",
        "Ollama is running",
        "[]",
        '[{"name": "a"}]',
        '"models"',
        "null",
        "{}",
        '{"models": {}}',
        '{"models": "a"}',
        '{"models": 5}',
        '{"models": [null]}',
        '{"models": ["mid-a"]}',
        '{"models": [[]]}',
        '{"models": [{}]}',
    ],
)
@pytest.mark.parametrize("path", ["/api/ps", "/api/tags"])
def test_what_lists_no_models_is_not_ollama(
    http: responses.RequestsMock, client: Client, path: str, body: str
) -> None:
    http.add("GET", URL + path, body=body, status=200)
    with pytest.raises(BadAnswer):
        client.resident() if path == "/api/ps" else client.installed()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ...},
        {"name": None},
        {"name": 5},
        {"name": ""},
        {"name": ["mid-a"]},
        {"name": "nul \x00"},
        {"name": "half \ud800"},
        {"digest": ...},
        {"digest": None},
        {"digest": {}},
        {"size": ...},
        {"size": None},
        {"size": "5"},
        {"size": "5 GB"},
        {"size": True},
        {"size": -1},
        {"size": 2**63},
        {"size": 10**400},
        {"size": 1e999},
        {"size": float("nan")},
        {"size": 1.5},
        {"size": []},
    ],
    ids=repr,
)
def test_a_row_in_another_shape_is_a_bad_answer(
    http: responses.RequestsMock, client: Client, changes: dict[str, Any]
) -> None:
    row = {k: v for k, v in (PS_ROW | changes).items() if v is not ...}
    http.add("GET", URL + "/api/ps", body=json.dumps({"models": [row]}))
    with pytest.raises(BadAnswer, match="not Ollama's"):
        client.resident()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size_vram", -5),
        ("size_vram", "all"),
        ("size_vram", None),
        ("context_length", -2048),
        ("context_length", 1e999),
        ("context_length", "long"),
        ("expires_at", "tomorrow"),
        ("expires_at", 5),
        ("expires_at", "2026-13-45T99:99:99Z"),
        ("expires_at", "9999-12-31T23:59:59-10:00"),
        ("expires_at", "0001-01-01T00:00:00+10:00"),
        ("expires_at", "292277026596-12-04T15:30:07Z"),
    ],
    ids=repr,
)
def test_a_value_that_a_row_can_do_without_is_ignored_if_it_is_odd(
    http: responses.RequestsMock, client: Client, field: str, value: Any
) -> None:
    row = PS_ROW | {field: value}
    http.add("GET", URL + "/api/ps", body=json.dumps({"models": [row, PS_ROW]}))
    odd, plain = client.resident()
    assert (odd.name, odd.digest, odd.size) == (plain.name, plain.digest, plain.size)
    assert getattr(odd, field) in (0, None)
    assert odd != plain or field == "size_vram"


def test_an_expiry_with_another_offset_is_the_same_moment(
    http: responses.RequestsMock, client: Client
) -> None:
    row = read_ps(http, client, expires_at="2026-11-24T20:02:07.123456789+05:30")
    assert row.expires_at == datetime(2026, 11, 24, 14, 32, 7, 123456, tzinfo=UTC)


def test_rows_that_name_no_model_do_not_hide_the_others_and_are_one_warning(
    http: responses.RequestsMock, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    rows: list[Any] = [PS_ROW, PS_ROW | {"digest": None}, PS_ROW | {"size": "5"}, 5, None]
    http.add("GET", URL + "/api/ps", body=json.dumps({"models": rows}))
    assert len(client.resident()) == 1
    (record,) = caplog.records
    assert record.getMessage().startswith("4 models of a list cannot be read; the first: ")


def test_a_list_with_more_rows_than_any_server_has_models_is_a_bad_answer(
    http: responses.RequestsMock, client: Client
) -> None:
    rows = [PS_ROW] + [5] * MAX_CONTAINERS
    http.add("GET", URL + "/api/ps", body=json.dumps({"models": rows}))
    with pytest.raises(BadAnswer, match="too many models"):
        client.resident()


@pytest.mark.parametrize("capabilities", [None, 5, "completion", {}, [None, 5, "\x00"]])
def test_odd_capabilities_are_none(
    http: responses.RequestsMock, client: Client, capabilities: Any
) -> None:
    row = {"name": "mid-a", "digest": "d", "size": 5, "capabilities": capabilities}
    http.add("GET", URL + "/api/tags", body=json.dumps({"models": [row]}))
    (read,) = client.installed()
    assert read.capabilities == ()


@pytest.mark.fact(28)
@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        ({}, ""),
        ({"capabilities": ["completion", "vision", "audio"]}, ""),
        ({"capabilities": ["embedding"]}, "embedding"),
        ({"capabilities": ["image"]}, "image"),
        ({"capabilities": ["audio"]}, "audio"),
        ({"details": {"format": "safetensors"}}, "MLX"),
        ({"details": None}, ""),
        ({"remote_host": "https://ollama.com:443", "remote_model": "big:1t"}, "cloud"),
        ({"remote_host": 5}, "cloud"),
        ({"remote_model": "big:1t"}, "cloud"),
        ({"name": "big:1t-cloud"}, "cloud"),
        ({"name": "big:cloud"}, "cloud"),
    ],
    ids=repr,
)
def test_a_list_tells_what_kind_of_model_it_is(
    http: responses.RequestsMock, client: Client, facts: dict[str, Any], kind: str
) -> None:
    row = {"name": "mid-a", "digest": "d", "size": 5} | facts
    http.add("GET", URL + "/api/tags", body=json.dumps({"models": [row]}))
    (read,) = client.installed()
    assert read.kind == kind
    assert Installed.from_json(read.to_json()) == read


def test_a_gpu_share_is_at_most_100_percent(http: responses.RequestsMock, client: Client) -> None:
    assert read_ps(http, client, size=100, size_vram=900).gpu_percent == 100
    assert read_ps(http, client, size=0, size_vram=0).gpu_percent == 0


@pytest.mark.parametrize("capabilities", ["completion", {"a": 1}, [5], [None], 7])
def test_malformed_capabilities_do_no_harm(
    http: responses.RequestsMock, client: Client, capabilities: Any
) -> None:
    answer(http, "/api/tags", {"models": [TAGS_ROW | {"capabilities": capabilities}]}, method="GET")
    try:
        rows = client.installed()
    except BadAnswer:
        return
    assert not rows[0].embeds_only


NONSENSE = [10**400, 1e999, float("nan"), -5, True, "5", None, [], {}]


@pytest.mark.parametrize("value", NONSENSE, ids=repr)
@pytest.mark.parametrize("key", ["load_duration", "total_duration", "eval_count", "eval_duration"])
def test_impossible_figures_are_ignored(
    http: responses.RequestsMock, client: Client, key: str, value: Any
) -> None:
    http.add("POST", URL + "/api/generate", body=json.dumps(WARMED | {key: value}))
    load_s = client.load(spec(), False, 5, Call())
    warmed = client.warm(spec(), HELLO, False, 5, Call())
    figures = [load_s, warmed.tokens, warmed.tokens_per_s, warmed.seconds]
    assert all(0 <= f < 2**63 for f in figures), "a finite number, which a record can hold"


@pytest.mark.parametrize("version", [None, 5, [], {}, ...])
def test_a_server_without_a_version_is_not_ollama(
    http: responses.RequestsMock, client: Client, version: Any
) -> None:
    answer(http, "/api/version", {} if version is ... else {"version": version}, method="GET")
    with pytest.raises(BadAnswer, match="names no version"):
        client.version()


def test_a_version_is_kept_short_and_printable(
    http: responses.RequestsMock, client: Client
) -> None:
    answer(http, "/api/version", {"version": "0.12\x00" + "9" * 100}, method="GET")
    assert client.version() == "0.12 " + "9" * 35


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(row=st.fixed_dictionaries({}, optional={k: JSON | st.just(v) for k, v in PS_ROW.items()}))
def test_any_row_is_read_or_an_ollama_error(row: dict[str, Any]) -> None:
    with responses.RequestsMock() as http:
        http.add("GET", URL + "/api/ps", body=json.dumps({"models": [row]}))
        client = Client(URL)
        try:
            (read,) = client.resident()
        except OllamaError:
            return
        assert Resident.from_json(json.loads(json.dumps(read.to_json()))) == read


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=st.dictionaries(st.sampled_from([*WARMED, "embeddings", "error"]), JSON))
def test_any_answer_to_a_warm_up_is_a_result_or_an_ollama_error(body: dict[str, Any]) -> None:
    for path, embeds in (("/api/generate", False), ("/api/embed", True)):
        with responses.RequestsMock() as http:
            http.add("POST", URL + path, body=json.dumps(body))
            try:
                warmed = Client(URL).warm(spec(), HELLO, embeds, 5, Call())
            except OllamaError:
                continue
            json.dumps([warmed.tokens, warmed.tokens_per_s, warmed.seconds], allow_nan=False)


# --- observing -------------------------------------------------------------------------------


def test_an_observation_holds_everything_that_was_read(
    http: responses.RequestsMock, client: Client
) -> None:
    answer(http, "/api/ps", {"models": [PS_ROW]}, method="GET")
    answer(http, "/api/tags", {"models": [TAGS_ROW]}, method="GET")
    answer(http, "/api/version", {"version": "0.12.3"}, method="GET")
    seen = client.observe(NOW)
    assert (seen.at, seen.version, seen.error, seen.answered) == (NOW, "0.12.3", "", True)
    assert [r.name.full for r in seen.resident] == ["mid-a:latest"]
    assert [i.name.full for i in seen.installed] == ["embed:latest"]


@pytest.mark.parametrize("broken", ["/api/ps", "/api/tags", "/api/version"])
def test_a_failed_observation_holds_its_time_and_the_error_only(
    http: responses.RequestsMock, client: Client, broken: str
) -> None:
    answer(http, "/api/ps", {"models": []}, method="GET")
    answer(http, "/api/tags", {"models": []}, method="GET")
    answer(http, "/api/version", {"version": "0.12.3"}, method="GET")
    http.replace("GET", URL + broken, body=requests.ConnectionError("Connection reset"))
    seen = client.observe(NOW)
    assert (seen.at, seen.answered, seen.resident, seen.installed) == (NOW, False, (), ())
    assert "tower.test" in seen.error


def test_observing_residents_keeps_the_rest(http: responses.RequestsMock, client: Client) -> None:
    answer(http, "/api/ps", {"models": [PS_ROW]}, method="GET")
    disk = (Installed(ModelName.parse("mid-a"), DIGEST, 5),)
    known = Observation(NOW, (), disk, "0.12.3", 9, "")
    seen = client.observe_resident(NOW + timedelta(seconds=5), known)
    assert (seen.installed, seen.version, seen.at) == (disk, "0.12.3", NOW + timedelta(seconds=5))
    assert [r.digest for r in seen.resident] == [DIGEST]


def test_an_unchanged_answer_is_not_parsed_again(
    http: responses.RequestsMock, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(http, "/api/ps", {"models": [PS_ROW]}, method="GET")
    first = client.resident()
    monkeypatch.setattr("switcher.ollama.calls.json.loads", None)
    assert client.resident() is first


def test_a_changed_answer_is_parsed(http: responses.RequestsMock, client: Client) -> None:
    other = PS_ROW | {"name": "mid-b:latest"}
    for rows in ([PS_ROW], [other], [PS_ROW], []):
        http.add("GET", URL + "/api/ps", json={"models": rows})
    names = [[r.name.full for r in client.resident()] for _ in range(4)]
    assert names == [["mid-a:latest"], ["mid-b:latest"], ["mid-a:latest"], []]


def test_a_bad_answer_is_refused_each_time(http: responses.RequestsMock, client: Client) -> None:
    http.add("GET", URL + "/api/ps", body="{}")
    for _ in range(2):
        with pytest.raises(BadAnswer):
            client.resident()


def test_the_same_body_of_another_path_is_parsed_on_its_own(
    http: responses.RequestsMock, client: Client
) -> None:
    for path in ("/api/ps", "/api/tags"):
        answer(http, path, {"models": [PS_ROW]}, method="GET")
    assert isinstance(client.resident()[0], Resident)
    assert isinstance(client.installed()[0], Installed)


@pytest.mark.parametrize("again", ["a new connection", "a minute later"])
def test_the_version_is_read_again_when_it_may_have_changed(
    http: responses.RequestsMock, client: Client, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    for path in ("/api/ps", "/api/tags"):
        answer(http, path, {"models": []}, method="GET")
    for version in ("0.12.3", "0.24.0"):
        answer(http, "/api/version", {"version": version}, method="GET")
    assert [client.observe(NOW).version for _ in range(3)] == ["0.12.3"] * 3
    if again == "a new connection":
        init = Call.__init__

        def connected(self: Call) -> None:
            init(self)
            self.connected = True

        monkeypatch.setattr(Call, "__init__", connected)
    else:
        client._version_at -= 61
    assert client.observe(NOW).version == "0.24.0"


@pytest.mark.parametrize("closes_after", [3, 4])  # GET /api/ps, /api/tags, /api/version, /api/ps
def test_a_closed_connection_is_noticed_whichever_call_meets_it(closes_after: int) -> None:
    """It means that the server restarted, even if another call than `/api/ps` met it."""
    listed, version = json_answer(b'{"models":[]}'), json_answer(b'{"version":"0.24.0"}')

    def serve(peer: Peer) -> None:
        count = 0
        while request := peer.request():
            peer.send(version if b"/api/version" in request else listed)
            count += 1
            if peer.number == 1 and count == closes_after:
                return

    with raw_server(serve) as server:
        client = Client(server.url)
        told = [client.observe(NOW).reconnected for _ in range(4)]
        client.close()
    assert told == [False, closes_after == 3, closes_after == 4, False]


def test_a_connection_error_is_unreachable(http: responses.RequestsMock, client: Client) -> None:
    http.add("GET", URL + "/api/ps", body=requests.ConnectionError("boom"))
    with pytest.raises(Unreachable, match="The connection to http://tower.test:11434 broke"):
        client.resident()


# --- names -----------------------------------------------------------------------------------


@pytest.mark.fact(21)
def test_a_copy_accepts_an_empty_answer(http: responses.RequestsMock, client: Client) -> None:
    http.add("POST", f"{URL}/api/copy", body=b"", status=200)
    client.copy("mid-a", "switchboard-holds/mid-a:1a2b")
    assert sent(http) == {"source": "mid-a", "destination": "switchboard-holds/mid-a:1a2b"}


@pytest.mark.fact(21)
def test_a_copy_of_nothing_is_a_missing_model(http: responses.RequestsMock, client: Client) -> None:
    answer(http, "/api/copy", {"error": 'model "nope" not found'}, 404)
    with pytest.raises(ModelMissing):
        client.copy("nope", "x", Call())


@pytest.mark.fact(24)
def test_a_name_is_deleted(http: responses.RequestsMock, client: Client) -> None:
    http.add("DELETE", f"{URL}/api/delete", body=b"", status=200)
    client.delete("mid-a", Call())
    assert sent(http) == {"model": "mid-a"}


@pytest.mark.fact(24)
def test_deleting_a_missing_model_is_its_own_error(
    http: responses.RequestsMock, client: Client
) -> None:
    answer(http, "/api/delete", {"error": "model 'mid-a' not found"}, 404, "DELETE")
    with pytest.raises(ModelMissing):
        client.delete("mid-a")


def test_a_switchboard_is_no_ollama_server(http: responses.RequestsMock, client: Client) -> None:
    answer(http, "/api/ps", {"error": "This is the address of a Switchboard."}, 508, method="GET")
    with pytest.raises(AddressRefused, match="of a Switchboard"):
        client.resident()
    assert http.calls[0].request.headers["Via"] == VIA
