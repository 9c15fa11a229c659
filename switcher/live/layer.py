"""The channel layer of one process: in memory, for one event loop."""

from __future__ import annotations

import time

from channels.layers import InMemoryChannelLayer

CLEAN_EVERY_S = 5.0


class MemoryLayer(InMemoryChannelLayer):
    """Channels' own, without its scan of every channel at every receive.

    With 1,000 clients that scan took half of the time of a fan-out. What it removes is 60 s old,
    so looking each 5 s loses nothing.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._cleaned_at = 0.0

    def _clean_expired(self) -> None:
        now = time.monotonic()
        if now - self._cleaned_at >= CLEAN_EVERY_S:
            self._cleaned_at = now
            super()._clean_expired()
