"""The states of a switch and the transitions between them, as data.

`docs/states.md` is generated from TRANSITIONS; a test compares them.
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The state of a switch. The values are stored in the database and shown by the API."""

    QUEUED = "queued"
    CHECKING = "checking"
    DRAINING = "draining"
    LOADING = "loading"
    WARMING = "warming"
    VERIFYING = "verifying"
    ACTIVATING = "activating"
    UNLOADING = "unloading"
    RESTORING = "restoring"
    ACTIVE = "active"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Strategy(StrEnum):
    """In which order the old model is unloaded and the new one loaded."""

    AUTO = "auto"
    OVERLAP = "overlap"
    SWAP = "swap"


ENDED = frozenset({State.ACTIVE, State.ROLLED_BACK, State.FAILED, State.CANCELLED})
OPEN = frozenset(State) - ENDED

# The order in which a switch that succeeds goes through its phases.
PHASES: dict[Strategy, tuple[State, ...]] = {
    Strategy.OVERLAP: (
        State.CHECKING,
        State.LOADING,
        State.WARMING,
        State.VERIFYING,
        State.ACTIVATING,
        State.UNLOADING,
    ),
    Strategy.SWAP: (
        State.CHECKING,
        State.DRAINING,
        State.UNLOADING,
        State.LOADING,
        State.WARMING,
        State.VERIFYING,
        State.ACTIVATING,
    ),
}

# Before anything was changed on the host a switch may simply end. Afterwards it can fail only
# through RESTORING, since the old models have to come back first.
TRANSITIONS: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.CHECKING, State.FAILED, State.CANCELLED}),
    State.CHECKING: frozenset(
        {
            State.DRAINING,
            State.LOADING,
            State.ACTIVE,  # already active and verified
            State.FAILED,
            State.CANCELLED,
        }
    ),
    State.DRAINING: frozenset({State.UNLOADING, State.RESTORING}),
    State.LOADING: frozenset({State.WARMING, State.RESTORING}),
    State.WARMING: frozenset({State.VERIFYING, State.RESTORING}),
    State.VERIFYING: frozenset({State.ACTIVATING, State.RESTORING}),
    State.ACTIVATING: frozenset({State.UNLOADING, State.ACTIVE, State.RESTORING}),
    # In `swap` the unload comes first and leads to the load; in `overlap` it is last.
    State.UNLOADING: frozenset({State.LOADING, State.ACTIVE, State.RESTORING}),
    State.RESTORING: frozenset({State.ROLLED_BACK, State.FAILED, State.CANCELLED}),
    State.ACTIVE: frozenset(),
    State.ROLLED_BACK: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}

# In these states of a `swap` requests wait, because the host has no model to answer with.
HELD_IN_SWAP = frozenset(
    {
        State.DRAINING,
        State.UNLOADING,
        State.LOADING,
        State.WARMING,
        State.VERIFYING,
        State.ACTIVATING,
        State.RESTORING,
    }
)

WORDS: dict[State, str] = {
    State.QUEUED: "Queued",
    State.CHECKING: "Checking",
    State.DRAINING: "Draining",
    State.LOADING: "Loading",
    State.WARMING: "Warming",
    State.VERIFYING: "Verifying",
    State.ACTIVATING: "Activating",
    State.UNLOADING: "Unloading",
    State.RESTORING: "Restoring",
    State.ACTIVE: "Active",
    State.ROLLED_BACK: "Rolled back",
    State.FAILED: "Failed",
    State.CANCELLED: "Cancelled",
}


def can_move(left: State, right: State) -> bool:
    """Return whether a switch in state `left` may go to `right`."""
    return right in TRANSITIONS[left]


def holds_requests(strategy: Strategy, state: State) -> bool:
    """Return whether clients of the host have to wait now.

    In an overlap they wait only while the configuration changes: earlier requests get the old
    model, later ones the new one.
    """
    if strategy is Strategy.OVERLAP:
        return state is State.ACTIVATING
    return strategy is Strategy.SWAP and state in HELD_IN_SWAP
