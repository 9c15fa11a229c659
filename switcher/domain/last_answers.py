"""When each model last answered through the gateway, in memory, for this process.

`/api/ps` lists a model whose runner was killed until the next request for it (fact 19). So pages
say when a listed model was last known to answer.
"""

from __future__ import annotations

from datetime import datetime

_answered: dict[tuple[int, str], datetime] = {}


def note(host_id: int, digest: str, at: datetime) -> None:
    """Note that a model has answered. Thread-safe."""
    _answered[host_id, digest] = at


def last_answer(host_id: int, digest: str, since: datetime | None = None) -> datetime | None:
    """Return when a model last answered: at `since`, when a switch verified it, or later."""
    at = _answered.get((host_id, digest))
    return max(at, since) if at and since else at or since
