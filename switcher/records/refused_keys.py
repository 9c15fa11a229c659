"""Records refused API keys in the audit trail, but not every attempt: a client with an old key
keeps trying, and would fill the trail by itself."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from django.db import DatabaseError

from switcher.audit.ledger import Actor
from switcher.concurrency.threads import in_thread
from switcher.domain import vitals
from switcher.records.keys import digest_of, record_refused

log = logging.getLogger(__name__)

# At most one entry per key and address in this time, and MAX_PER_INTERVAL in all.
INTERVAL_S = 3600.0
MAX_PER_INTERVAL = 60


@dataclass(slots=True)
class RefusedKeyThrottle:
    """Limits the entries of this process within INTERVAL_S, and counts the attempts that were left
    out."""

    recorded_at: dict[tuple[str, str], float] = field(default_factory=dict)
    left_out: int = 0

    def should_record(self, token: str, address: str, now: float) -> bool:
        """Return whether to record this attempt; else count it. `now` is monotonic, in seconds."""
        recent = {key: at for key, at in self.recorded_at.items() if now - at < INTERVAL_S}
        self.recorded_at = recent
        key = digest_of(token), address
        if key in recent or len(recent) >= MAX_PER_INTERVAL:
            self.left_out += 1
            return False
        recent[key] = now
        return True

    def reset(self) -> None:
        """Forget everything, for tests."""
        self.recorded_at, self.left_out = {}, 0


throttle = RefusedKeyThrottle()


async def record_refused_key(token: str, source: str, address: str | None, agent: str) -> None:
    """Record that a client came with a key that does not work, unless the throttle leaves it out.

    During an outage of the database it is only counted. Another error is logged. The client is
    refused either way.
    """
    if vitals.text_of("gateway"):
        # Each attempt would hold a thread until a locked database gives up, and delay all others.
        throttle.left_out += 1
        return
    if not throttle.should_record(token, address or "", time.monotonic()):
        return
    left_out, throttle.left_out = throttle.left_out, 0
    actor = Actor("unknown client", source, ip=address, agent=agent[:300])
    try:
        await in_thread(record_refused, token, actor, left_out)
    except DatabaseError as exc:
        log.warning("A refused key was not recorded: %s", exc, extra={"action": "not-told"})
