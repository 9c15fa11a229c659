"""One reply: its tokens as they become due, and the statistics at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from ollama_simulator import replies
from ollama_simulator.host import Turn
from ollama_simulator.runner import Ask, effective_ctx
from ollama_simulator.server import Refused
from ollama_simulator.versions import CUTS_TO_HALF, NEWEST

TOOL_TOKENS = 8
KEPT_TOKENS = 5  # of the beginning of a prompt that is cut: num_keep, and the first one


class ConnectionCut(Exception):
    """The connection breaks before the response, or during it."""


@dataclass(frozen=True, slots=True)
class Say:
    """A prompt and how to reply to it. `asked` is the model name in the request; `messages` are the
    texts that a chat's prompt consists of.
    """

    asked: str
    prompt: str = ""
    messages: tuple[str, ...] = ()
    as_json: bool = False
    tool: dict[str, Any] | None = None

    def limit(self, wanted: object) -> int | None:
        """Return how many tokens to generate, None for no limit; `wanted` is the request's own
        limit.
        """
        if self.tool:
            return TOOL_TOKENS
        if self.as_json:
            return len(replies.json_tokens(""))
        number = isinstance(wanted, int | float) and not isinstance(wanted, bool)
        return int(wanted) if number and wanted > 0 else None  # type: ignore[operator,call-overload]


def cut_tokens(say: Say, context: int, is_halved: bool = False) -> int:
    """Return how many tokens of a prompt the model reads (fact 30): a chat that is too long loses
    its first messages, and what still does not fit is cut to the context or about half of it."""
    texts = [say.prompt, *(" ".join(say.messages[n:]) for n in range(1, len(say.messages)))]
    counts = map(replies.count_tokens, texts)
    rest = context - max((context - KEPT_TOKENS) // 2, 1) if is_halved else context
    return next((n for n in counts if n <= context), rest)


class Reply:
    """A reply in progress. Read its figures after the last token."""

    def __init__(self, turn: Turn, say: Say) -> None:
        self.turn, self.say = turn, say
        self.ask: Ask = turn.ask
        context = effective_ctx(turn.ask.options, turn.ask.manifest)
        is_halved = CUTS_TO_HALF <= turn.host.server.config.version < NEWEST
        self.prompt_tokens = cut_tokens(say, context, is_halved)
        self.given = 0
        self.ended_at = 0.0

    @property
    def reason(self) -> str:
        return "stop" if self.say.as_json or self.say.tool else self.ask.reason

    async def tokens(self) -> AsyncIterator[str]:
        """Yield the tokens when they are due. Raises `Refused` or `ConnectionCut` if the reply
        fails.
        """
        await self.turn.until("running")
        self.check()
        texts = self._texts()
        for number in range(1, self.ask.said + 1):
            await self.turn.until_token(number)
            if self.ask.state == "failed" and not self._is_due(number):
                break
            self.given += 1
            if number <= len(texts):
                yield texts[number - 1]
        await self.turn.until()
        self.ended_at = self.turn.host.now()
        self.check()

    def _is_due(self, number: int) -> bool:
        return self.ask.cuts and number <= self.ask.said

    def _texts(self) -> list[str]:
        who = self.ask.manifest.speaks_as
        if self.say.tool:
            return []
        if self.say.as_json:
            return replies.json_tokens(who)
        return replies.tokens_of(who, self.say.prompt, self.ask.tokens, self.turn.host.seed)

    def check(self) -> None:
        """Raise the reply's error, if it has one."""
        if self.ask.cut:
            raise ConnectionCut
        if self.ask.state == "failed":
            raise Refused(self.ask.error, self.ask.status)

    def figures(self) -> dict[str, Any]:
        """Return the reply's statistics; durations are in whole nanoseconds (fact 17)."""
        ask = self.ask
        rate = ask.tokens_per_s or 1.0
        return {
            "total_duration": _ns(self.ended_at - ask.asked_at),
            # For a loaded model, real servers report about a millisecond.
            "load_duration": _ns(max(0.001, ask.load_s)),
            "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": _ns(ask.prompt_s),
            "eval_count": self.given,
            "eval_duration": _ns(self.given / rate),
        }


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
