from __future__ import annotations

import pytest

from tests.contract.server import Ollama

HELLO = [{"role": "user", "content": "Hello"}]
API_TYPE, V1_TYPE = "application/json; charset=utf-8", "application/json"


@pytest.mark.fact(25)
def test_the_root_says_that_it_is_running(ollama: Ollama) -> None:
    """Fact 25."""
    answer = ollama.call("GET", "/")
    assert (answer.status_code, answer.text) == (200, "Ollama is running")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert ollama.call("HEAD", "/").status_code == 200


@pytest.mark.fact(25)
@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/api/nope", 404, "404 page not found"),
        ("GET", "/v1/nope", 404, "404 page not found"),
        ("GET", "/api/generate", 405, "405 method not allowed"),
        ("DELETE", "/v1/chat/completions", 405, "405 method not allowed"),
    ],
)
def test_unknown_paths_and_methods_are_plain_text(
    ollama: Ollama, method: str, path: str, status: int, text: str
) -> None:
    """Fact 25."""
    answer = ollama.call(method, path)
    assert (answer.status_code, answer.text) == (status, text)
    assert answer.headers["Content-Type"] == "text/plain"


@pytest.mark.fact(25)
@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("{bad", "invalid character 'b' looking for beginning of object key string"),
        ("nonsense", "invalid character 'o' in literal null (expecting 'u')"),
        ("?", "invalid character '?' looking for beginning of value"),
        ('{"model": "x"', "unexpected EOF"),
        ('{"model" "x"}', "invalid character '\"' after object key"),
        ("", "missing request body"),
    ],
)
def test_a_body_that_is_no_json_is_refused_in_its_own_words(
    ollama: Ollama, raw: str, text: str
) -> None:
    """Fact 25."""
    answer = ollama.call("POST", "/api/generate", raw)
    assert (answer.status_code, answer.json()) == (400, {"error": text})
    assert answer.headers["Content-Type"] == API_TYPE


@pytest.mark.fact(25)
def test_a_body_with_a_wrong_type_is_refused(ollama: Ollama) -> None:
    """Fact 25."""
    answer = ollama.post("/api/generate", model=5)
    field = "Go struct field GenerateRequest.model of type string"
    assert answer.json() == {"error": f"json: cannot unmarshal number into {field}"}


@pytest.mark.fact(25)
@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        ("/api/generate", [], "array into Go value of type api.GenerateRequest"),
        (
            "/api/generate",
            {"model": "x", "options": 5},
            "number into Go struct field GenerateRequest.options of type map[string]interface {}",
        ),
        (
            "/api/chat",
            {"model": "x", "messages": 5},
            "number into Go struct field ChatRequest.messages of type []api.Message",
        ),
        (
            "/v1/chat/completions",
            {"model": "x", "messages": HELLO, "max_tokens": "x"},
            "string into Go struct field ChatCompletionRequest.max_tokens of type int",
        ),
    ],
)
def test_every_wrong_type_is_named(ollama: Ollama, path: str, body: object, text: str) -> None:
    """Fact 25."""
    answer = ollama.call("POST", path, body)
    error = answer.json()["error"]
    message = error["message"] if path.startswith("/v1") else error
    assert (answer.status_code, message) == (400, f"json: cannot unmarshal {text}")


@pytest.mark.fact(25)
@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/api/chat", {"model": "contract-nope", "messages": HELLO}, 404, "model '%s' not found"),
        ("/api/chat", {"model": "", "messages": HELLO}, 400, "model is required"),
        ("/api/show", {}, 400, "model is required"),
        (
            "/api/embed",
            {"model": "contract-nope", "input": "x"},
            404,
            'model "%s" not found, try pulling it first',
        ),
    ],
)
def test_api_errors_are_one_text(
    ollama: Ollama, path: str, body: dict[str, object], status: int, text: str
) -> None:
    """Fact 25."""
    answer = ollama.post(path, **body)
    assert answer.status_code == status
    assert answer.json() == {"error": text.replace("%s", "contract-nope")}
    assert answer.headers["Content-Type"] == API_TYPE


@pytest.mark.fact(25)
def test_show_names_in_full_what_it_does_not_find(ollama: Ollama) -> None:
    """Fact 25: servers up to 0.24 repeat the name in the request."""
    answer = ollama.post("/api/show", model="contract-nope")
    texts = [f"model '{name}' not found" for name in ("contract-nope:latest", "contract-nope")]
    assert answer.status_code == 404
    assert answer.json()["error"] in (texts[:1] if ollama.simulated else texts)


@pytest.mark.fact(25)
@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "text"),
    [
        (
            "/v1/chat/completions",
            {"model": "contract-nope", "messages": HELLO},
            404,
            "not_found_error",
            "model 'contract-nope' not found",
        ),
        (
            "/v1/chat/completions",
            {"model": "contract-nope", "messages": []},
            400,
            "invalid_request_error",
            "[] is too short - 'messages'",
        ),
        (
            "/v1/completions",
            {"model": "contract-nope", "prompt": "x"},
            404,
            "not_found_error",
            "model 'contract-nope' not found",
        ),
        (
            "/v1/embeddings",
            {"model": "contract-nope"},
            400,
            "invalid_request_error",
            "invalid input",
        ),
    ],
)
def test_v1_errors_are_objects(
    ollama: Ollama, path: str, body: dict[str, object], status: int, kind: str, text: str
) -> None:
    """Fact 25."""
    answer = ollama.post(path, **body)
    assert answer.status_code == status
    assert answer.json() == {"error": {"message": text, "type": kind, "param": None, "code": None}}
    # If the body itself is refused, the JSON reader answers, with a charset.
    assert answer.headers["Content-Type"] == (API_TYPE if status == 400 else V1_TYPE)


@pytest.mark.fact(25)
def test_an_embedding_model_does_not_chat_under_v1(ollama: Ollama) -> None:
    """Facts 16 and 25."""
    model = ollama.models.embed
    answer = ollama.post("/v1/chat/completions", model=model, messages=HELLO)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == f'"{model}" does not support chat'


@pytest.mark.fact(25)
def test_an_option_of_a_wrong_type_fails_before_any_load(ollama: Ollama) -> None:
    """Fact 25."""
    answer = ollama.generate(ollama.models.small_a, options={"num_ctx": "many"})
    assert answer.status_code == 500
    assert answer.json() == {"error": 'option "num_ctx" must be of type integer'}
    assert ollama.ps() == []
