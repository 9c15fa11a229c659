"""What is counted of requests, in memory, and handed over in batches off the hot path."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime

from switcher.gateway.answers import GatewayError
from switcher.queries.keys import KeyFacts
from switcher.records.usage import Batch, Counts, Where

# Where the two shapes, and OpenAI's newer one, say how many tokens went in and out.
_IN = re.compile(rb'"(?:prompt_tokens|prompt_eval_count|input_tokens)": ?(\d{1,9})')
_OUT = re.compile(rb'"(?:completion_tokens|eval_count|output_tokens)": ?(\d{1,9})')
LOOK_BACK = 1024  # bytes at the end of an answer in which they stand


@dataclass(slots=True)
class RequestUsage:
    """One request's counts while it is under way."""

    key: KeyFacts | None
    host: str = ""
    model: str = ""
    waited_s: float = 0.0
    failed: bool = False
    tokens_in: int = 0
    tokens_out: int = 0

    def read_whole(self, answer: bytes) -> None:
        """Look for the counts in a whole answer: mostly at its end, but before `logprobs`."""
        self.read_tokens(answer[-LOOK_BACK:])
        if not self.tokens_in and not self.tokens_out:
            self.read_tokens(answer)

    def read_tokens(self, end_of_answer: bytes) -> None:
        """Look for the counts in the last bytes of an answer. The last of each counts."""
        for name, pattern in (("tokens_in", _IN), ("tokens_out", _OUT)):
            found = pattern.findall(end_of_answer)
            if found:
                setattr(self, name, int(found[-1]))


class Meter:
    """The counts of one event loop since the last batch, and its keys' limits.

    Limits hold for each process by itself: with `processes` of them each allows its share.
    """

    def __init__(self) -> None:
        self._counts: dict[Where, Counts] = {}
        self._used: set[int] = set()
        self._recent: dict[int, deque[float]] = {}
        self._at_once: dict[int, int] = {}
        self.processes = 1

    def enter(self, key: KeyFacts | None, now: float) -> None:
        """Count a request in. `now` in seconds of a clock that never jumps. Raises Refusal 429."""
        if key is None:
            return
        if key.at_once is not None and self._at_once.get(key.id, 0) >= self._share(key.at_once):
            raise _too_many(f"{key.at_once} requests at once are allowed by this key.", 1)
        if key.requests_a_minute is not None:
            self._check_minute(key, self._share(key.requests_a_minute), now)
        self._at_once[key.id] = self._at_once.get(key.id, 0) + 1

    def _check_minute(self, key: KeyFacts, most: int, now: float) -> None:
        recent = self._recent.setdefault(key.id, deque())
        while recent and recent[0] <= now - 60:
            recent.popleft()
        if len(recent) >= most:
            text = f"{key.requests_a_minute} requests a minute are allowed by this key."
            raise _too_many(text, max(1, round(recent[0] + 60 - now)))
        recent.append(now)

    def _share(self, limit: int) -> int:
        return max(1, -(-limit // max(1, self.processes)))

    def leave(self, tally: RequestUsage, at: datetime | None = None) -> None:
        """Count a request that has ended; `enter` was called for it."""
        if tally.key is not None:
            self._at_once[tally.key.id] -= 1
            self._used.add(tally.key.id)
        if not tally.host:
            return  # a list, or it never got as far as a host
        hour = (at or datetime.now(UTC)).replace(minute=0, second=0, microsecond=0)
        where = Where(tally.key.id if tally.key else None, tally.host, tally.model, hour)
        counts = self._counts.setdefault(where, Counts())
        counts.requests += 1
        counts.errors += tally.failed
        counts.waits += tally.waited_s > 0
        counts.wait_ms += round(tally.waited_s * 1000)
        counts.tokens_in += tally.tokens_in
        counts.tokens_out += tally.tokens_out

    def take(self) -> Batch:
        """What was counted since the last time."""
        batch = Batch(list(self._counts.items()), self._used)
        self._counts, self._used = {}, set()
        return batch

    def put_back(self, batch: Batch) -> None:
        """A batch that could not be written: nothing of it is lost."""
        self._used |= batch.keys
        for where, counts in batch.rows:
            mine = self._counts.setdefault(where, Counts())
            for name in Counts.__dataclass_fields__:
                setattr(mine, name, getattr(mine, name) + getattr(counts, name))


def _too_many(text: str, retry_after_s: int) -> GatewayError:
    headers = [("retry-after", str(retry_after_s))]
    return GatewayError(429, "rate_limit_exceeded", text, headers=headers)
