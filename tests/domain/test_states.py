"""The states of a switch: every pair of them, against a table written out by hand."""

from __future__ import annotations

from itertools import pairwise, product

import pytest

from switcher.domain.states import (
    ENDED,
    OPEN,
    PHASES,
    TRANSITIONS,
    WORDS,
    State,
    Strategy,
    can_move,
    holds_requests,
)

# From what to what. Written from SWITCHING.md, not from the code.
MAY = {
    "queued": "checking failed cancelled",
    "checking": "draining loading active failed cancelled",
    "draining": "unloading restoring",
    "unloading": "loading active restoring",
    "loading": "warming restoring",
    "warming": "verifying restoring",
    "verifying": "activating restoring",
    "activating": "unloading active restoring",
    "restoring": "rolled_back failed cancelled",
    "active": "",
    "rolled_back": "",
    "failed": "",
    "cancelled": "",
}


@pytest.mark.parametrize(("left", "right"), list(product(State, State)))
def test_a_switch_moves_only_as_the_table_says(left: State, right: State) -> None:
    assert can_move(left, right) == (right.value in MAY[left.value].split())


def test_every_state_has_its_line_and_its_word() -> None:
    assert set(TRANSITIONS) == set(WORDS) == set(State) == {State(s) for s in MAY}


def test_a_switch_ends_in_exactly_four_ways() -> None:
    assert {s.value for s in ENDED} == {"active", "rolled_back", "failed", "cancelled"}
    assert set(State) == ENDED | OPEN
    assert not ENDED & OPEN


@pytest.mark.parametrize("state", sorted(ENDED))
def test_what_has_ended_goes_nowhere(state: State) -> None:
    assert not any(can_move(state, other) for other in State)


def reachable(start: State) -> set[State]:
    seen, todo = set[State](), [start]
    while todo:
        for after in TRANSITIONS[todo.pop()] - seen:
            seen.add(after)
            todo.append(after)
    return seen


@pytest.mark.parametrize("state", sorted(OPEN))
def test_every_open_state_can_come_to_an_end(state: State) -> None:
    assert reachable(state) & ENDED


@pytest.mark.parametrize("state", sorted(OPEN))
def test_every_open_state_can_end_badly(state: State) -> None:
    assert State.FAILED in reachable(state)
    assert State.CANCELLED in reachable(state)


@pytest.mark.parametrize("state", sorted(set(State) - {State.QUEUED}))
def test_every_state_is_reached_from_the_first(state: State) -> None:
    assert state in reachable(State.QUEUED)


@pytest.mark.parametrize("state", sorted(OPEN - {State.QUEUED, State.CHECKING, State.RESTORING}))
def test_once_something_was_touched_only_a_restore_ends_it_badly(state: State) -> None:
    assert TRANSITIONS[state] & ENDED <= {State.ACTIVE}
    assert can_move(state, State.RESTORING)


@pytest.mark.parametrize("strategy", list(PHASES))
def test_the_phases_of_a_success_are_moves_that_end_active(strategy: Strategy) -> None:
    way = [State.QUEUED, *PHASES[strategy], State.ACTIVE]
    assert all(can_move(left, right) for left, right in pairwise(way))


def test_only_what_activates_follows_a_verified_model() -> None:
    before_active = {s for s in State if can_move(s, State.ACTIVE)}
    assert before_active == {State.CHECKING, State.ACTIVATING, State.UNLOADING}
    assert {s for s in State if can_move(s, State.ACTIVATING)} == {State.VERIFYING}


def test_clients_wait_while_no_model_is_there_and_while_the_configuration_changes() -> None:
    waits = {s for s in State if holds_requests(Strategy.SWAP, s)}
    assert waits == OPEN - {State.QUEUED, State.CHECKING}
    assert {s for s in State if holds_requests(Strategy.OVERLAP, s)} == {State.ACTIVATING}
    assert not any(holds_requests(Strategy.AUTO, s) for s in State)
