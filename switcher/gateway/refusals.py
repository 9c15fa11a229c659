"""Keys that were refused, told to the audit trail, but not each one: a client with an old key asks
again and again, and would fill the trail by itself."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from django.db import DatabaseError

from switcher.concurrency.threads import in_thread
from switcher.records import Actor
from switcher.records.keys import digest_of, refused

log = logging.getLogger(__name__)

# Of one key from one address an entry in so much time, and of all of them together so many.
EVERY_S = 3600.0
MOST = 60


@dataclass(slots=True)
class Refusals:
    """What this process has told within EVERY_S, and how many it has left out since."""

    told: dict[tuple[str, str], float] = field(default_factory=dict)
    left_out: int = 0

    def is_due(self, token: str, address: str, now: float) -> bool:
        """Whether to tell of this one."""
        self.told = {key: at for key, at in self.told.items() if now - at < EVERY_S}
        key = digest_of(token), address
        if key in self.told or len(self.told) >= MOST:
            self.left_out += 1
            return False
        self.told[key] = now
        return True


_refusals = Refusals()


def forget() -> None:
    """As after a new start."""
    _refusals.told.clear()
    _refusals.left_out = 0


async def tell(token: str, address: str | None, agent: str) -> None:
    """Tell of a key that does not work, if it is due. The client is refused either way."""
    if not _refusals.is_due(token, address or "", time.monotonic()):
        return
    more, _refusals.left_out = _refusals.left_out, 0
    actor = Actor("unknown client", "gateway", ip=address, agent=agent[:300])
    try:
        await in_thread(refused, token, actor, more)
    except DatabaseError:
        log.exception("a refused key was not written down", extra={"action": "not-told"})
