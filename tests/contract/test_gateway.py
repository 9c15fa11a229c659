"""The gateway in front of the server under contract: requests reach the verified content, whatever
becomes of the active model's name (facts 21 to 24)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from switcher.concurrency.threads import in_thread
from switcher.domain.specs import Spec
from switcher.models import Host, ModelCopy
from switcher.ollama import relay
from tests.contract.server import Ollama, full
from tests.gateway.conftest import Exchange, add_host, ask

NAME = "contract-active:latest"
COPY = "switchboard-holds/contract-active:0123456789ab"
TEXT = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
REQUESTS = {
    "/v1/chat/completions": TEXT,
    "/v1/completions": {"prompt": "Hello", "max_tokens": 4},
    "/v1/responses": {"input": "Hello", "max_output_tokens": 4},
    "/v1/messages": TEXT,
    "/api/chat": {"messages": TEXT["messages"], "options": {"num_predict": 4}},
    "/api/generate": {"prompt": "Hello", "options": {"num_predict": 4}},
}
STYLES = pytest.mark.parametrize("path", REQUESTS)


def activate(ollama: Ollama, options: dict[str, Any], with_copy: bool = True) -> Host:
    """Make NAME active, as a switch does that verifies it, and load it."""
    ollama.copy(ollama.models.small_a, NAME)
    ollama.copy(NAME, COPY)
    ollama.load(NAME, **options)
    host = add_host("tower", ollama.url)
    spec, digest = Spec("", NAME, options=options), ollama.digest(NAME)
    Host.objects.filter(pk=host.pk).update(
        active_tag=NAME, active_digest=digest, active_spec=spec.to_json()
    )
    if with_copy:
        now = datetime.now(UTC)
        ModelCopy.objects.create(host=host, digest=digest, tag=NAME, name=COPY, made_at=now)
    return host


@pytest_asyncio.fixture
async def reached(transactional_db: None, settings: Any, ollama: Ollama) -> AsyncIterator[Ollama]:
    settings.SWITCHER_OPEN_GATEWAY = True
    yield ollama
    await relay.close()


def copy_over(ollama: Ollama) -> None:
    ollama.copy(ollama.models.small_b, NAME)


def delete(ollama: Ollama) -> None:
    assert ollama.delete(NAME).status_code == 200


CHANGES = pytest.mark.parametrize("change", [copy_over, delete])


def models_named(reply: Exchange) -> set[str]:
    """Return the values of all `model` members in a reply, streamed or not."""
    found: set[str] = set()

    def keep(members: dict[str, Any]) -> dict[str, Any]:
        found.update(v for k, v in members.items() if k == "model" and isinstance(v, str))
        return members

    for line in reply.body.decode().splitlines():
        line = line.removeprefix("data: ")
        if line.startswith("{"):
            json.loads(line, object_hook=keep)
    return found


async def ask_and_check(ollama: Ollama, path: str, stream: bool) -> None:
    verified = ollama.digest(ollama.models.small_a)
    reply = await ask({"model": NAME, "stream": stream, **REQUESTS[path]}, target=path).end()
    assert reply.status == 200, reply.body
    assert reply.headers["x-switchboard-model"] == NAME
    assert b"switchboard-holds" not in reply.body
    assert models_named(reply) == {NAME}
    assert {row["digest"] for row in ollama.ps()} == {verified}


@pytest.mark.fact(21, 23, 24)
@STYLES
@CHANGES
@pytest.mark.parametrize("stream", [False, True])
async def test_requests_go_to_the_verified_content(
    reached: Ollama, path: str, change: Any, stream: bool
) -> None:
    await in_thread(activate, reached, {})
    change(reached)
    await ask_and_check(reached, path, stream)


@pytest.mark.fact(12, 23, 24)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/api/chat"])
@CHANGES
async def test_requests_with_runner_options_go_there_too(
    reached: Ollama, path: str, change: Any
) -> None:
    await in_thread(activate, reached, {"num_ctx": 1024})
    change(reached)
    await ask_and_check(reached, path, stream=True)
    assert [row["context_length"] for row in reached.ps()] == [1024]


@pytest.mark.fact(23, 24)
@STYLES
@CHANGES
async def test_without_any_name_of_it_a_request_is_refused(
    reached: Ollama, path: str, change: Any
) -> None:
    """The copy is recorded, but somebody has deleted it and every other name."""
    await in_thread(activate, reached, {})
    other = "contract-other:latest"
    digest = {"digest": "sha256:" + "00" * 32}
    await in_thread(lambda: Host.objects.update(active_digest=digest["digest"]))
    await in_thread(lambda: ModelCopy.objects.update(**digest, tag=other))
    assert reached.delete(COPY).status_code == 200
    change(reached)
    before = reached.ps()
    reply = await ask({"model": NAME, **REQUESTS[path]}, target=path).end()
    assert reply.status == 503
    error = reply.json()["error"]
    text = error if path.startswith("/api") else error["message"]
    assert "no other name reaches the content that was verified" in text
    assert [r["digest"] for r in reached.ps()] == [r["digest"] for r in before]


@pytest.mark.fact(21)
@pytest.mark.parametrize("is_recorded", [True, False])
async def test_without_the_copy_any_name_of_the_content_serves(
    reached: Ollama, is_recorded: bool
) -> None:
    await in_thread(activate, reached, {}, is_recorded)
    assert reached.delete(COPY).status_code == 200
    await ask_and_check(reached, "/v1/chat/completions", stream=True)
    copy_over(reached)
    await ask_and_check(reached, "/api/chat", stream=True)


@pytest.mark.fact(21, 24)
@CHANGES
async def test_lists_show_the_verified_content_under_its_name(reached: Ollama, change: Any) -> None:
    await in_thread(activate, reached, {})
    change(reached)
    digest = reached.digest(reached.models.small_a)
    tags = (await ask(method="GET", target="/api/tags").end()).json()["models"]
    assert [(row["name"], row["digest"]) for row in tags] == [(NAME, digest)]
    shown = await ask({"model": NAME}, target="/api/show").end()
    assert shown.status == 200
    assert b"switchboard-holds" not in shown.body


@pytest.mark.fact(21)
async def test_a_model_loaded_through_the_gateway_is_listed_by_its_own_name(
    reached: Ollama,
) -> None:
    await in_thread(activate, reached, {})
    reached.unload(NAME)
    reached.wait_gone(NAME)
    await ask_and_check(reached, "/api/generate", stream=False)
    assert {row["name"] for row in reached.ps()} == {full(COPY)}
    rows = (await ask(method="GET", target="/api/ps").end()).json()["models"]
    assert [(row["name"], row["model"]) for row in rows] == [(NAME, NAME)]
