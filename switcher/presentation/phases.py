"""The phases of a switch: as a rail while it runs, as a timeline afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from switcher.domain.states import ENDED, PHASES, WORDS, State, Strategy
from switcher.queries.switches import RecordedPhase, SwitchDetail


@dataclass(frozen=True, slots=True)
class Phase:
    """A step of the rail. `state` is done, now, todo, failed or skipped; `entered` is what was
    recorded of it."""

    of: State
    state: str
    entered: RecordedPhase | None = None
    expected_s: float | None = None

    @property
    def word(self) -> str:
        return WORDS[self.of]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A line of the timeline; `x`, `width` and `usual_x` are percentages of the whole."""

    phase: Phase
    x: str
    width: str
    usual_x: str
    kind: str  # b, b-bad, b-back, b-now


def rail(switch: SwitchDetail) -> tuple[Phase, ...]:
    """Return every phase of the strategy, and the end, each with its state.

    If activating is the last phase, it stands for the end.
    """
    phases = PHASES[_order(switch)]
    steps = phases[:-1] if phases[-1] is State.ACTIVATING else phases
    return (*(_step(switch, state) for state in steps), _last_step(switch, phases[-1]))


def timeline(switch: SwitchDetail, now: datetime) -> tuple[Stretch, ...]:
    """Return every phase that was entered, in order, each with its position in the whole."""
    if not switch.phases:
        return ()
    began = switch.phases[0].at
    end = max(phase.ended_at or now for phase in switch.phases)
    whole = max(end - began, timedelta(milliseconds=1))
    return tuple(_stretch(switch, phase, began, whole, now) for phase in switch.phases)


def stopped_in(switch: SwitchDetail) -> State | None:
    """Return the phase that a switch stopped in; None if it succeeded or is still going on."""
    if not _is_over(switch) or switch.state is State.ACTIVE:
        return None
    entered = [phase.state for phase in switch.phases if phase.state is not State.RESTORING]
    return entered[-1] if entered else None


def without_model_s(switch: SwitchDetail) -> float | None:
    """Return the seconds during which the host had no active model; None while that lasts."""
    if _order(switch) is Strategy.OVERLAP:
        return 0.0
    total, unloaded = 0.0, False
    for phase in switch.phases:
        unloaded = unloaded or phase.state is State.UNLOADING
        if unloaded and phase.seconds is None:
            return None
        total += phase.seconds or 0.0 if unloaded else 0.0
    return total


def _order(switch: SwitchDetail) -> Strategy:
    """Return the strategy; until the plan has chosen one, overlap."""
    chosen = Strategy(switch.strategy)
    return Strategy.OVERLAP if chosen is Strategy.AUTO else chosen


def _is_over(switch: SwitchDetail) -> bool:
    return switch.state in ENDED or switch.state is State.RESTORING


def _step(switch: SwitchDetail, state: State) -> Phase:
    entered = next((p for p in reversed(switch.phases) if p.state is state), None)
    if entered is not None:
        return _entered(switch, entered)
    reached = "skipped" if _is_over(switch) else "todo"
    expected_s = switch.expected_phase_s(state)
    return Phase(state, reached, expected_s=expected_s)


def _entered(switch: SwitchDetail, phase: RecordedPhase) -> Phase:
    state = phase.state
    if switch.state is state:
        reached = "now"
    else:
        reached = "failed" if stopped_in(switch) is state else "done"
    return Phase(state, reached, phase, phase.expected_s)


def _last_step(switch: SwitchDetail, last: State) -> Phase:
    if switch.restoring:
        return Phase(State.RESTORING, "now", switch.phases[-1])
    if switch.state is State.ACTIVE:
        return Phase(State.ACTIVE, "done")
    if last is State.ACTIVATING and any(p.state is last for p in switch.phases):
        return _step(switch, last)
    return Phase(State.ACTIVE, "skipped" if switch.ended else "todo")


def _stretch(
    switch: SwitchDetail, entered: RecordedPhase, began: datetime, whole: timedelta, now: datetime
) -> Stretch:
    phase = _entered(switch, entered)
    start = 100 * ((entered.at - began) / whole)
    width = 100 * (((entered.ended_at or now) - entered.at) / whole)
    usual_x = ""
    if phase.expected_s:
        usual_x = f"{min(start + 100 * (timedelta(seconds=phase.expected_s) / whole), 100):.1f}%"
    return Stretch(phase, f"{start:.1f}%", f"{max(width, 0.4):.1f}%", usual_x, _kind(phase))


def _kind(phase: Phase) -> str:
    if phase.of is State.RESTORING:
        return "b-back"
    return {"now": "b-now", "failed": "b-bad"}.get(phase.state, "b")
