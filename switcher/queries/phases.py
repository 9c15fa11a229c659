"""The phases of one switch: as a rail for who watches, as a timeline for who reads later."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from switcher.domain.states import ENDED, PHASES, WORDS, State, Strategy

RESTORE = "restoring"


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
    """One line of the timeline; `x`, `width` and `usual_x` are percentages of all of it."""

    phase: Phase
    x: str
    width: str
    usual_x: str
    kind: str  # b, b-bad, b-back, b-now


@dataclass(frozen=True, slots=True)
class Course:
    """What phases are made from: the facts of a switch's row, parsed."""

    state: State
    strategy: Strategy
    rows: tuple[dict[str, Any], ...]
    expected: dict[str, float]


def course(
    state: str, strategy: str, asked: str, phases: list[dict[str, Any]], plan: dict[str, Any] | None
) -> Course:
    """Parse a row's facts. Before the plan is decided on, the strategy asked for stands in."""
    chosen = Strategy(strategy or asked or Strategy.AUTO)
    if chosen is Strategy.AUTO:
        chosen = Strategy.OVERLAP
    expected = {k: e["seconds"] for k, e in ((plan or {}).get("expected") or {}).items()}
    return Course(State(state), chosen, tuple(phases), expected)


def rail(c: Course) -> tuple[Phase, ...]:
    """Every phase of the chosen strategy, and the end: reached, under way, or not.

    Where activating comes last, it is the end itself.
    """
    phases = PHASES[c.strategy]
    steps = phases[:-1] if phases[-1] is State.ACTIVATING else phases
    return (*(_step(c, p) for p in steps), _last_step(c, phases[-1]))


def _step(c: Course, state: State) -> Phase:
    row = next((r for r in reversed(c.rows) if r["phase"] == state.value), None)
    word, expected = WORDS[state], c.expected.get(state.value)
    if row is None:
        left_out = c.state in ENDED or c.state is State.RESTORING
        return Phase(state.value, word, "skipped" if left_out else "todo", expected_s=expected)
    return Phase(
        key=state.value,
        word=word,
        state=_reached(c, state, row),
        began_at=datetime.fromisoformat(row["at"]),
        seconds=row["seconds"],
        expected_s=expected,
        note=row.get("note", ""),
    )


def _reached(c: Course, state: State, row: dict[str, Any]) -> str:
    if c.state is state:
        return "now"
    return "failed" if failed_phase(c) == row["phase"] else "done"


def _last_step(c: Course, last: State) -> Phase:
    if c.state is State.RESTORING:
        row = c.rows[-1]
        began = datetime.fromisoformat(row["at"])
        return Phase(RESTORE, WORDS[State.RESTORING], "now", began)
    if c.state is State.ACTIVE:
        return Phase("active", WORDS[State.ACTIVE], "done")
    if last is State.ACTIVATING and any(r["phase"] == last.value for r in c.rows):
        return _step(c, last)
    return Phase("active", WORDS[State.ACTIVE], "skipped" if c.state in ENDED else "todo")


def failed_phase(c: Course) -> str:
    """The phase that a switch stopped in; empty for one that went well or still goes on."""
    if (c.state not in ENDED and c.state is not State.RESTORING) or c.state is State.ACTIVE:
        return ""
    walked = [r["phase"] for r in c.rows if r["phase"] != RESTORE]
    return walked[-1] if walked else ""


def timeline(c: Course, now: datetime) -> tuple[Stretch, ...]:
    """Everything that was walked through, in order, each with its place in the whole."""
    if not c.rows:
        return ()
    began = datetime.fromisoformat(c.rows[0]["at"])
    ends = [_end(r, now) for r in c.rows]
    whole = max((max(ends) - began) / timedelta(seconds=1), 0.001)
    return tuple(_stretch(c, r, began, whole, now) for r in c.rows)


def _end(row: dict[str, Any], now: datetime) -> datetime:
    at = datetime.fromisoformat(row["at"])
    return now if row["seconds"] is None else at + timedelta(seconds=row["seconds"])


def _stretch(
    c: Course, row: dict[str, Any], began: datetime, whole: float, now: datetime
) -> Stretch:
    at = datetime.fromisoformat(row["at"])
    start = 100 * ((at - began) / timedelta(seconds=1)) / whole
    width = 100 * ((_end(row, now) - at) / timedelta(seconds=1)) / whole
    usual = c.expected.get(row["phase"])
    usual_x = start + 100 * usual / whole if usual else None
    phase = Phase(
        key=row["phase"],
        word=WORDS[State(row["phase"])],
        state=_reached(c, State(row["phase"]), row) if row["phase"] != RESTORE else "done",
        began_at=at,
        seconds=row["seconds"],
        expected_s=usual,
        note=row.get("note", ""),
    )
    return Stretch(
        phase=phase,
        x=f"{start:.1f}%",
        width=f"{max(width, 0.4):.1f}%",
        usual_x=f"{min(usual_x, 100):.1f}%" if usual_x is not None else "",
        kind=_kind(phase, c),
    )


def _kind(phase: Phase, c: Course) -> str:
    if phase.key == RESTORE:
        return "b-back"
    if phase.state == "now":
        return "b-now"
    return "b-bad" if phase.state == "failed" else "b"


def without_model_s(c: Course) -> float | None:
    """Seconds in which the host had no active model to answer with; None while it goes on."""
    if c.strategy is Strategy.OVERLAP:
        return 0.0
    held = False
    total = 0.0
    for row in c.rows:
        held = held or row["phase"] == State.UNLOADING.value
        if held and row["seconds"] is None:
            return None
        total += row["seconds"] if held else 0.0
    return total
