"""Running one reply through the machine, token by token, with the faults that hit it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from switcher.simulator import replies
from switcher.simulator.catalog import Manifest, valid_name
from switcher.simulator.host import Host, Work
from switcher.simulator.machine import Ask


class Refused(Exception):
    """The server answers with an error."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.text, self.status = text, status


class ConnectionCut(Exception):
    """The connection breaks without an answer."""


@dataclass(slots=True)
class Say:
    """What is to be said."""

    prompt: str
    as_json: bool = False
    tool: dict[str, Any] | None = None


@dataclass(slots=True)
class Reply:
    """How it went. Durations in seconds."""

    asked: str
    reason: str = "stop"
    broken: bool = False
    tokens: int = 0
    prompt_tokens: int = 0
    total_s: float = 0.0
    load_s: float = 0.0
    prompt_s: float = 0.0
    eval_s: float = 0.0

    def figures(self) -> dict[str, Any]:
        """Fact 17: nanoseconds."""
        return {
            "context": [1, 2, 3],
            "total_duration": round(self.total_s * 1e9),
            "load_duration": round(self.load_s * 1e9),
            "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": round(self.prompt_s * 1e9),
            "eval_count": self.tokens,
            "eval_duration": round(self.eval_s * 1e9),
        }


def check_model(host: Host, name: str) -> Manifest:
    """The manifest, or the server's refusal (fact 15)."""
    if name and not valid_name(name):
        raise Refused("invalid model name", 400)
    manifest = host.catalog.find(name) if name else None
    if manifest is None:
        raise Refused(f"model '{name}' not found", 404)
    return manifest


async def run_reply(host: Host, work: Work, say: Say, reply: Reply) -> AsyncIterator[str]:
    """Yield the tokens as they come; fill `reply`. Leaving early aborts the work (fact 9)."""
    began = host.now()
    texts = _texts(work, say, host.seed)
    reply.prompt_tokens = replies.count_tokens(say.prompt)
    broken = host.faults.take("done_false", tag=work.name) is not None and work.tokens > 0
    cut = host.faults.take("cut_stream", tag=work.name) if work.tokens else None
    async with host.asked(work) as (ask, news):
        await host.until_running(ask, news)
        _check(ask)
        reply.load_s = ask.load_s
        reply.prompt_s = host.config.prompt_s
        for n, text in enumerate(texts):
            await _until(host, ask, news, n)
            if broken and n >= max(1, len(texts) // 2):
                reply.broken = True
                return
            if cut is not None and n >= cut.tokens:
                raise ConnectionCut
            reply.tokens += 1
            yield text
        await host.until_ended(ask, news)
        _check(ask)
    reply.reason = "stop" if len(texts) < work.tokens or say.as_json else "length"
    reply.eval_s = reply.tokens / host.config.tokens_per_s
    reply.total_s = host.now() - began


def _texts(work: Work, say: Say, seed: int) -> list[str]:
    if not work.tokens or work.manifest.embeds or say.tool:
        return []
    if say.as_json:
        return replies.json_tokens(work.name)
    return replies.tokens_of(work.name, say.prompt, work.tokens, seed)


async def _until(host: Host, ask: Ask, news: asyncio.Event, n: int) -> None:
    """Until token `n` is due, or the ask broke."""
    due = ask.started_at + host.config.prompt_s + n / host.config.tokens_per_s
    while (left := due - host.now()) > 0 and not ask.ended:
        try:
            async with asyncio.timeout(left):
                await news.wait()
            news.clear()
        except TimeoutError:
            return
    if ask.state == "failed":
        _check(ask)


def _check(ask: Ask) -> None:
    if ask.cut:
        raise ConnectionCut
    if ask.state == "failed":
        raise Refused(ask.error, ask.status)
