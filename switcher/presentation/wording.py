"""Sentences that several entry points show."""

from __future__ import annotations

# By the gateway policy of a host.
POLICY_WORDS = {
    "active": "Whatever a client names, it gets the active model.",
    "names": "A name below gets its profile; any other name gets the active model.",
    "strict": "Only the names below and the active model's own are served; any other is a 404.",
}
# Gateway processes share no counter (gateway.meter).
LIMIT_WORDS = (
    "Each of N gateway processes allows one N-th of it, rounded up. A client that keeps one "
    "connection open always meets the same process, and gets no more than that part."
)
