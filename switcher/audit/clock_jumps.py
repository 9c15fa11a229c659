"""Records when the wall clock was set, so that the times of entries can be read with care.

Nothing but the records depends on the wall clock (`models.shared_time`).
"""

from __future__ import annotations

import logging
import math

from switcher.audit.ledger import SERVER, append, writing
from switcher.concurrency.loop import Loop
from switcher.domain.clock import Clock, system
from switcher.models import AuditEntry

log = logging.getLogger(__name__)

CLOCK_SET = "server.clock-set"
INTERVAL_S = 5.0
# Below this, it is the ordinary drift of two machines' clocks and their correction.
MIN_JUMP_S = 2.0


class ClockWatch:
    """Compares the wall clock with the monotonic one. Call `start` and `stop` once each."""

    def __init__(self, clock: Clock = system) -> None:
        self._clock = clock
        self._offset_s: float | None = None  # once compared with the newest entry
        self._loop = Loop("clock-watch", self.look_once, INTERVAL_S)

    def start(self) -> None:
        self._loop.start()

    def stop(self) -> None:
        self._loop.stop(1.0)

    def look_once(self) -> None:
        """Record a jump since the last look; at the first look, one back since the newest entry."""
        offset_s = self._clock.now().timestamp() - self._clock.monotonic()
        jump_s = -self._behind_newest_s() if self._offset_s is None else offset_s - self._offset_s
        if abs(jump_s) >= MIN_JUMP_S:
            self._record(jump_s)
        self._offset_s = offset_s

    def _behind_newest_s(self) -> float:
        """Return by how many seconds the newest entry is ahead of the clock; 0 if it is not."""
        at = AuditEntry.objects.order_by("-seq").values_list("at", flat=True).first()
        return max(0.0, (at - self._clock.now()).total_seconds()) if at else 0.0

    def _record(self, jump_s: float) -> None:
        with writing():
            append(CLOCK_SET, SERVER, clock=self._clock, seconds=math.trunc(jump_s))
        log.warning("The wall clock was set by %+d s", jump_s, extra={"action": "clock-set"})
