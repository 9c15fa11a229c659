"""The product with older versions of Ollama: it works, or says what the version lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from switcher.concurrency.threads import in_thread
from switcher.domain.specs import Spec
from switcher.domain.states import Strategy
from switcher.domain.versions import missing_in
from switcher.models import Host, SwitchEvent
from switcher.ollama import relay
from switcher.records import config, switches
from switcher.records.switches import ResolvedRequest
from switcher.switching.worker import run_once
from switcher.watching.loop import check_now
from tests.gateway.conftest import ADMIN, HELLO, ask
from tests.simulated import SimulatedOllama

VERSIONS = ["0.5.0", "0.9.6", "0.12.6", "0.24.0", "0.32.15"]
MODELS = ("mid-a=2GB", "embed=1GB,embed")


@dataclass
class Old:
    """A host whose server acts as a version of Ollama."""

    version: str
    ollama: SimulatedOllama
    host: Host

    def switch(self, tag: str, **options: Any) -> SwitchEvent:
        request = ResolvedRequest(
            self.host, Spec("", tag, options=options), None, Strategy.SWAP, ""
        )
        row, _ = switches.open_switch(request, ADMIN)
        run_once(row.pk)
        check_now(self.host.pk, self.host.base_url)
        return SwitchEvent.objects.get(pk=row.pk)


@pytest.fixture(params=VERSIONS)
def old(request: Any, transactional_db: None, settings: Any) -> Iterator[Old]:
    settings.SWITCHER_OPEN_GATEWAY = True
    how = {"load_rate": "50GB", "tokens_per_s": 500, "as_version": request.param}
    with SimulatedOllama(*MODELS, **how) as ollama:
        facts = {"name": "tower", "base_url": ollama.url, "vram_bytes": 10_000_000_000}
        host = Host.objects.get(pk=config.put_host(facts, ADMIN))
        yield Old(request.param, ollama, host)


def test_chat_and_embedding_models_are_switched_to(old: Old) -> None:
    for tag in ("mid-a", "embed"):
        done = old.switch(tag)
        assert (done.state, done.error) == ("active", ""), old.version
        assert old.ollama.resident() == {tag}


def test_another_context_is_loaded(old: Old) -> None:
    old.switch("mid-a")
    assert old.switch("mid-a", num_ctx=8192).state == "active"
    assert old.ollama.loads("mid-a") == 2


def test_the_pages_are_shown_and_name_what_is_missing(old: Old) -> None:
    old.switch("mid-a")
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root"))
    for path in ("/", "/hosts/", "/hosts/tower", "/hosts/tower/clients", "/profiles/"):
        assert client.get(path, follow=True).status_code == 200, path
    page = client.get("/hosts/tower", follow=True).content.decode()
    assert f"Ollama {old.version}" in page
    assert [f.name for f in missing_in(old.version) if f.name not in page] == []
    assert ("lacks" in page) == bool(missing_in(old.version))


REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {**HELLO, "max_tokens": 4}),
    ("/v1/completions", {"prompt": "Hello", "max_tokens": 4}),
    ("/v1/messages", {**HELLO, "max_tokens": 4}),
    ("/api/chat", HELLO),
    ("/api/generate", {"prompt": "Hello"}),
]


async def test_the_gateway_answers_or_names_the_version_that_could(old: Old) -> None:
    await in_thread(old.switch, "mid-a")
    lacks_responses = "/v1/responses" in {f.path for f in missing_in(old.version)}
    try:
        for stream in (False, True):
            for path, body in REQUESTS:
                reply = await ask({**body, "stream": stream}, target=path).end()
                assert (reply.status, b"error" in reply.body) == (200, False), reply.body
                assert b"[mid-a]" in reply.body
            reply = await ask({"input": "Hi", "stream": stream}, target="/v1/responses").end()
            assert reply.status == (404 if lacks_responses else 200)
            assert (b"which came with Ollama 0.13.3" in reply.body) == lacks_responses
    finally:
        await relay.close()
