"""One reply over a turn with the scheduler: its tokens in time, and the figures of its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from ollama_simulator import replies
from ollama_simulator.host import Turn
from ollama_simulator.runner import Ask
from ollama_simulator.server import Refused

TOOL_TOKENS = 8


class ConnectionCut(Exception):
    """The connection breaks without an answer, or before its end."""


@dataclass(frozen=True, slots=True)
class Say:
    """What is to be said to which prompt. `asked` is the model as the request named it."""

    asked: str
    prompt: str = ""
    as_json: bool = False
    tool: dict[str, Any] | None = None

    def limit(self, wanted: object) -> int | None:
        """Tokens to say, None for as many as it likes; `wanted` is the request's own limit."""
        if self.tool:
            return TOOL_TOKENS
        if self.as_json:
            return len(replies.json_tokens(""))
        number = isinstance(wanted, int | float) and not isinstance(wanted, bool)
        return int(wanted) if number and wanted > 0 else None  # type: ignore[operator,call-overload]


class Reply:
    """How one reply goes. Read its figures when the tokens have ended."""

    def __init__(self, turn: Turn, say: Say) -> None:
        self.turn, self.say = turn, say
        self.ask: Ask = turn.ask
        self.prompt_tokens = replies.count_tokens(say.prompt)
        self.given = 0
        self.ended_at = 0.0

    @property
    def reason(self) -> str:
        return "stop" if self.say.as_json or self.say.tool else self.ask.reason

    async def tokens(self) -> AsyncIterator[str]:
        """The tokens as they come. Raises `Refused` or `ConnectionCut` where it breaks."""
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
        """Raise what went wrong, if something did."""
        if self.ask.cut:
            raise ConnectionCut
        if self.ask.state == "failed":
            raise Refused(self.ask.error, self.ask.status)

    def figures(self) -> dict[str, Any]:
        """Fact 17: durations are whole nanoseconds."""
        ask = self.ask
        rate = ask.tokens_per_s or 1.0
        return {
            "total_duration": _ns(self.ended_at - ask.asked_at),
            # A request to a loaded model tells of a millisecond or so.
            "load_duration": _ns(max(0.001, ask.load_s)),
            "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": _ns(ask.prompt_s),
            "eval_count": self.given,
            "eval_duration": _ns(self.given / rate),
        }


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))
