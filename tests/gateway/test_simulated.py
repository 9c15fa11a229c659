"""The gateway in front of a simulated host: whole and streamed, unchanged and translated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import requests

from switcher.concurrency.threads import in_thread
from switcher.domain.specs import Spec
from switcher.models import Host
from switcher.ollama import relay
from tests.gateway.conftest import HELLO, add_host, ask, set_active
from tests.simulated import SimulatedOllama
from tests.until import PATIENCE_S


@pytest.fixture
def simulated() -> Iterator[str]:
    models = ("mid-a=2GB", "mid-b=2GB")
    with SimulatedOllama(*models, load_rate="50GB", tokens_per_s=500) as made:
        yield made.url


PLAIN = Spec("", "mid-a")
TUNED = Spec("tuned", "mid-a", keep_alive="2h", options={"num_ctx": 8192})


def loaded(url: str) -> Any:
    (row,) = requests.get(f"{url}/api/ps", timeout=PATIENCE_S).json()["models"]
    return row


def load(url: str, spec: Spec) -> Any:
    body = {"model": spec.tag, "prompt": "", "keep_alive": spec.keep_alive}
    requests.post(
        f"{url}/api/generate", json=body | {"options": spec.runner_options}, timeout=10
    ).raise_for_status()
    return loaded(url)


@pytest.mark.fact(12)
@pytest.mark.parametrize("spec", [PLAIN, TUNED], ids=["passed", "translated"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_reply_comes_and_nothing_is_reloaded(
    transactional_db: None, settings: Any, simulated: str, spec: Spec, stream: bool
) -> None:
    settings.SWITCHER_OPEN_GATEWAY = True
    host: Host = await in_thread(add_host, "tower", simulated)
    await in_thread(set_active, host, spec)
    before = await in_thread(load, simulated, spec)
    try:
        reply = await ask({**HELLO, "stream": stream, "max_tokens": 4, "keep_alive": "1s"}).end()
    finally:
        await relay.close()
    assert reply.status == 200, reply.body
    if stream:
        assert reply.body.endswith(b"data: [DONE]\n\n")
        parts = [e["choices"][0]["delta"].get("content", "") for e in reply.events()[:-1]]
        text = "".join(parts)
    else:
        text = json.loads(reply.body)["choices"][0]["message"]["content"]
    assert text.startswith("[mid-a]")
    after = await in_thread(loaded, simulated)
    assert after["context_length"] == before["context_length"]
    ends = [datetime.fromisoformat(row["expires_at"]) for row in (before, after)]
    assert ends[1] >= ends[0], "the client's keep-alive is not forwarded"
