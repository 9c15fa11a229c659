"""Token counts for Anthropic's clients, which are estimates."""

from __future__ import annotations

from typing import Any

import pytest

from switcher.concurrency.threads import in_thread
from switcher.domain.states import State
from switcher.gateway import anthropic_tokens
from switcher.models import Host
from tests.gateway.conftest import Upstream, ask
from tests.gateway.test_anthropic import (
    COUNT,
    PATH,
    assert_error,
    whole,
)
from tests.gateway.test_api_styles import set_policy
from tests.gateway.test_gates import advance, begin_switch

LONG = {"model": "claude-x", "messages": [{"role": "user", "content": "word " * 200}]}


@pytest.fixture
def nothing_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anthropic_tokens, "_learned", {})


async def count(body: Any = LONG) -> Any:
    reply = await ask(body, target=COUNT).end()
    assert reply.status == 200, reply.body
    assert set(reply.json()) == {"input_tokens"}
    return reply.json()["input_tokens"]


@pytest.mark.usefixtures("nothing_learned")
async def test_tokens_are_estimated_from_the_size_and_then_as_the_host_has_counted(
    host: Host, upstream: Upstream
) -> None:
    assert 240 <= await count() <= 260, "1,000 letters, at four a token"
    assert not upstream.received, "the host has no address that counts"
    upstream.answer = whole("Hello", prompt_eval_count=500)
    await ask(LONG | {"max_tokens": 9}, target=PATH).end()
    assert await count() == 500
    assert 990 <= await count(LONG | {"system": "word " * 200}) <= 1010


@pytest.mark.usefixtures("nothing_learned")
@pytest.mark.parametrize("tokens", [0, 9, 5000])
async def test_a_prompt_that_was_cut_teaches_nothing(
    host: Host, upstream: Upstream, tokens: int
) -> None:
    before = await count()
    upstream.answer = whole("Hello", prompt_eval_count=tokens)
    await ask(LONG | {"max_tokens": 9}, target=PATH).end()
    assert await count() == before


@pytest.mark.usefixtures("nothing_learned")
async def test_images_count_nothing_and_tools_do(host: Host) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "QUJD" * 1000}
    image = {"role": "user", "content": [{"type": "image", "source": source}]}
    assert await count({"messages": [image]}) < 10
    assert await count(LONG | {"tools": [{"name": "x" * 400}]}) > await count() + 90


async def test_counting_is_refused_like_a_message(host: Host) -> None:
    assert_error(await ask({}, target=COUNT).end(), 400, "invalid_request_error")
    assert_error(await ask(target=COUNT, method="GET").end(), 405, "invalid_request_error")


async def test_tokens_are_counted_for_names_of_the_hosts_policy(host: Host) -> None:
    await in_thread(set_policy, host, "strict")
    assert_error(await ask(LONG, target=COUNT).end(), 404, "not_found_error")


async def test_tokens_are_counted_during_a_switch_too(host: Host) -> None:
    switch = await in_thread(begin_switch, host)
    await in_thread(advance, switch, State.DRAINING)
    assert await count() > 0
