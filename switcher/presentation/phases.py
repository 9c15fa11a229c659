"""The phases of a switch: as a rail while it runs, as a timeline afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from switcher.domain.states import ENDED, PHASES, WORDS, State, Strategy
from switcher.queries.switches import SwitchDetail

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Phase:
    """One step of the rail. `state` is done, now, todo, failed or skipped."""

    key: str
    word: str
    state: str
    began_at: datetime | None = None
    seconds: float | None = None
    expected_s: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Stretch:
    """One line of the timeline; `x`, `width` and `usual_x` are percentages of the whole."""

    phase: Phase
    x: str
    width: str
    usual_x: str
    kind: str  # b, b-bad, b-back, b-now


def rail(switch: SwitchDetail) -> tuple[Phase, ...]:
    """Return every phase of the strategy and the end: reached, under way, or not.

    Where activating comes last, it is the end itself.
    """
    phases = PHASES[_order(switch)]
    steps = phases[:-1] if phases[-1] is State.ACTIVATING else phases
    return (*(_step(switch, state) for state in steps), _last_step(switch, phases[-1]))


def timeline(switch: SwitchDetail, now: datetime) -> tuple[Stretch, ...]:
    """Return every phase that was entered, in order, each with its place in the whole."""
    if not switch.phases:
        return ()
    began = _began(switch.phases[0])
    end = max(_ended(row, now) for row in switch.phases)
    whole = max(end - began, timedelta(milliseconds=1))
    return tuple(_stretch(switch, row, began, whole, now) for row in switch.phases)


def stopped_in(switch: SwitchDetail) -> State | None:
    """Return the phase that a switch stopped in; None if it succeeded or is still going on."""
    if not _is_over(switch) or switch.state is State.ACTIVE:
        return None
    entered = [State(row["phase"]) for row in switch.phases]
    return next((state for state in reversed(entered) if state is not State.RESTORING), None)


def without_model_s(switch: SwitchDetail) -> float | None:
    """Return the seconds in which the host had no active model; None while that goes on."""
    if _order(switch) is Strategy.OVERLAP:
        return 0.0
    entered = [row["phase"] for row in switch.phases]
    if State.UNLOADING.value not in entered:
        return 0.0
    seconds = [row["seconds"] for row in switch.phases[entered.index(State.UNLOADING.value) :]]
    return None if None in seconds else sum(seconds)


def _order(switch: SwitchDetail) -> Strategy:
    """Return the strategy; overlap until the plan has decided."""
    chosen = Strategy(switch.strategy)
    return Strategy.OVERLAP if chosen is Strategy.AUTO else chosen


def _is_over(switch: SwitchDetail) -> bool:
    return switch.state in ENDED or switch.state is State.RESTORING


def _step(switch: SwitchDetail, state: State) -> Phase:
    row = next((r for r in reversed(switch.phases) if r["phase"] == state.value), None)
    if row is None:
        reached = "skipped" if _is_over(switch) else "todo"
        expected_s = switch.expected_phase_s(state.value)
        return Phase(state.value, WORDS[state], reached, expected_s=expected_s)
    return _entered(switch, row)


def _entered(switch: SwitchDetail, row: Row) -> Phase:
    state = State(row["phase"])
    if switch.state is state:
        reached = "now"
    else:
        reached = "failed" if stopped_in(switch) is state else "done"
    return Phase(
        key=state.value,
        word=WORDS[state],
        state=reached,
        began_at=_began(row),
        seconds=row["seconds"],
        expected_s=switch.expected_phase_s(state.value),
        note=row.get("note", ""),
    )


def _last_step(switch: SwitchDetail, last: State) -> Phase:
    if switch.restoring:
        began_at = _began(switch.phases[-1])
        return Phase(State.RESTORING.value, WORDS[State.RESTORING], "now", began_at)
    if switch.state is State.ACTIVE:
        return Phase("active", WORDS[State.ACTIVE], "done")
    if last is State.ACTIVATING and any(r["phase"] == last.value for r in switch.phases):
        return _step(switch, last)
    return Phase("active", WORDS[State.ACTIVE], "skipped" if switch.ended else "todo")


def _began(row: Row) -> datetime:
    return datetime.fromisoformat(row["at"])


def _ended(row: Row, now: datetime) -> datetime:
    return now if row["seconds"] is None else _began(row) + timedelta(seconds=row["seconds"])


def _stretch(
    switch: SwitchDetail, row: Row, began: datetime, whole: timedelta, now: datetime
) -> Stretch:
    phase = _entered(switch, row)
    start = 100 * ((_began(row) - began) / whole)
    width = 100 * ((_ended(row, now) - _began(row)) / whole)
    usual_x = ""
    if phase.expected_s:
        usual_x = f"{min(start + 100 * (timedelta(seconds=phase.expected_s) / whole), 100):.1f}%"
    return Stretch(phase, f"{start:.1f}%", f"{max(width, 0.4):.1f}%", usual_x, _kind(phase))


def _kind(phase: Phase) -> str:
    if phase.key == State.RESTORING.value:
        return "b-back"
    return {"now": "b-now", "failed": "b-bad"}.get(phase.state, "b")
