"""Counts requests and tokens in memory, enforces the limits of keys, and passes the counts on in
batches, off the hot path.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime

from switcher.gateway.errors import GatewayError
from switcher.queries.keys import KeyFacts
from switcher.records.usage import UsageBatch, UsageBucket, UsageCounts

# How Ollama, OpenAI's chats and OpenAI's responses name the token counts.
_TOKENS_IN = re.compile(rb'"(?:prompt_tokens|prompt_eval_count|input_tokens)": ?(\d{1,9})')
_TOKENS_OUT = re.compile(rb'"(?:completion_tokens|eval_count|output_tokens)": ?(\d{1,9})')
USAGE_WINDOW = 1024  # bytes at the end of a reply that are searched for them


@dataclass(slots=True)
class RequestUsage:
    """The counts of a request in flight."""

    key: KeyFacts | None
    host: str = ""
    model: str = ""
    waited_s: float = 0.0
    failed: bool = False
    fell_back: bool = False
    tokens_in: int = 0
    tokens_out: int = 0
    cut_prompt: bool = False

    def read_whole(self, reply: bytes) -> None:
        """Read the counts of a whole reply: usually at its end, but `logprobs` may follow them."""
        self.read_tokens(reply[-USAGE_WINDOW:])
        if not self.tokens_in and not self.tokens_out:
            self.read_tokens(reply)

    def read_tokens(self, end_of_reply: bytes) -> None:
        """Read the counts in the last bytes of a reply. The last occurrence counts."""
        if found := _TOKENS_IN.findall(end_of_reply):
            self.tokens_in = int(found[-1])
        if found := _TOKENS_OUT.findall(end_of_reply):
            self.tokens_out = int(found[-1])


class Meter:
    """The counts of one event loop since the last batch, and the limits of its keys.

    Processes share no counters: each of `processes` allows its share of a limit.
    """

    def __init__(self) -> None:
        self._counts: dict[UsageBucket, UsageCounts] = {}
        self._used_keys: set[int] = set()
        self._recent: dict[int, deque[float]] = {}
        self._at_once: dict[int, int] = {}
        self.processes = 1

    def enter(self, key: KeyFacts | None, now: float) -> None:
        """Count a request that starts. `now` is monotonic, in seconds. Raises GatewayError 429."""
        if key is None:
            return
        if key.at_once is not None and self._at_once.get(key.id, 0) >= self._share(key.at_once):
            raise _too_many(f"This key allows {key.at_once} concurrent requests.", 1)
        if key.requests_a_minute is not None:
            self._check_minute(key, self._share(key.requests_a_minute), now)
        self._at_once[key.id] = self._at_once.get(key.id, 0) + 1

    def _check_minute(self, key: KeyFacts, limit: int, now: float) -> None:
        recent = self._recent.setdefault(key.id, deque())
        while recent and recent[0] <= now - 60:
            recent.popleft()
        if len(recent) >= limit:
            text = f"This key allows {key.requests_a_minute} requests per minute."
            raise _too_many(text, max(1, round(recent[0] + 60 - now)))
        recent.append(now)

    def _share(self, limit: int) -> int:
        """Return this process's part of a limit, rounded up."""
        return max(1, -(-limit // max(1, self.processes)))

    def leave(self, usage: RequestUsage, at: datetime | None = None) -> None:
        """Count a request that has ended and for which `enter` was called."""
        if usage.key is not None:
            self._at_once[usage.key.id] -= 1
            self._used_keys.add(usage.key.id)
        if not usage.host:
            return  # a list of models, or it never reached a host
        now = at or datetime.now(UTC)
        hour = now.replace(minute=0, second=0, microsecond=0)
        bucket = UsageBucket(usage.key.id if usage.key else None, usage.host, usage.model, hour)
        counts = self._counts.setdefault(bucket, UsageCounts())
        counts.requests += 1
        counts.errors += usage.failed
        counts.waits += usage.waited_s > 0
        counts.wait_ms += round(usage.waited_s * 1000)
        counts.tokens_in += usage.tokens_in
        counts.tokens_out += usage.tokens_out
        counts.fallbacks += usage.fell_back
        if usage.cut_prompt:
            counts.cut_prompts += 1
            counts.last_cut_at = now

    def take(self) -> UsageBatch:
        """Return the counts since the last batch, and reset them."""
        batch = UsageBatch(list(self._counts.items()), self._used_keys)
        self._counts, self._used_keys = {}, set()
        return batch

    def put_back(self, batch: UsageBatch) -> None:
        """Add the counts of a batch that could not be written."""
        self._used_keys |= batch.keys
        for bucket, counts in batch.rows:
            self._counts.setdefault(bucket, UsageCounts()).add(counts)


def _too_many(text: str, retry_after_s: int) -> GatewayError:
    headers = [("retry-after", str(retry_after_s))]
    return GatewayError(429, "rate_limit_exceeded", text, headers=headers)
