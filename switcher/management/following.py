"""Follows a switch from a terminal, and runs it there if no server does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import OutputWrapper

from switcher.concurrency.loop import Loop
from switcher.domain.model_names import ModelName, full_name
from switcher.domain.states import State
from switcher.management.terminal import ACTIVE, FAILED, REFUSED, ROLLED_BACK
from switcher.queries.switches import RecordedPhase, SwitchDetail, switch_detail
from switcher.records import changed
from switcher.switching.worker import run_once

CLAIM_INTERVAL_S = 1.5
FINISH_TIMEOUT_S = 10.0
HAND_OVER_TIMEOUT_S = 5.0
LOOK_INTERVAL_S = 0.2
# Errors that end a switch before anything is touched.
_REFUSED = frozenset({"plan-blocked", "plan-outdated", "no-such-model"})


class OwnWorker:
    """A worker that runs the switch in this process if no server claims it, or if that server has
    died. The lease decides, so retrying is always safe.
    """

    def __init__(self, switch_id: int) -> None:
        self._switch_id = switch_id
        self._shutting_down = threading.Event()
        self._loop = Loop(f"run-switch-{switch_id}", self._try_to_run, CLAIM_INTERVAL_S)
        self.running = False

    def start(self) -> None:
        self._loop.start(after_s=CLAIM_INTERVAL_S)

    def finish(self) -> None:
        """After the end, let the worker clean up and release the lease. If the process exits
        earlier, the host stays locked until the lease expires.
        """
        self._loop.stop(FINISH_TIMEOUT_S)

    def hand_over(self) -> None:
        """Leave the switch to the next server that starts."""
        self._shutting_down.set()
        self._loop.stop(HAND_OVER_TIMEOUT_S)

    def _try_to_run(self) -> None:
        self.running = True
        try:
            run_once(self._switch_id, stopping=self._shutting_down)
        finally:
            self.running = False


class Screen:
    """The output of the command: one line for each phase and, on a terminal, one that counts the
    seconds."""

    def __init__(self, out: OutputWrapper, live: bool) -> None:
        self._out = out
        self._live = live
        self._shown = 0

    def begin(self, row: SwitchDetail) -> None:
        """Print the switch's models and number."""
        left = f"{ModelName.parse(row.previous_model)} → " if row.previous_model else ""
        self._out.write(f"{left}{ModelName.parse(row.model)} on {row.host} (switch {row.id})")

    def show(self, row: SwitchDetail) -> None:
        """Print what has changed since the last call."""
        if self._live:
            self._out.write("\r\x1b[2K", ending="")  # removes the line that counts
        for phase in row.phases[self._shown :]:
            if phase.seconds is None:
                break
            note = f"   {phase.note}" if phase.note else ""
            self._out.write(_phase_line(phase.state, phase.seconds, "", phase.expected_s) + note)
            self._shown += 1
        if self._live and not row.ended:
            began_at, expected_s = row.created_at, None
            if row.phases and row.phases[-1].seconds is None:
                began_at, expected_s = row.phases[-1].at, row.phases[-1].expected_s
            seconds = max(0.0, (datetime.now(UTC) - began_at).total_seconds())
            self._out.write(f"\r{_phase_line(row.state, seconds, ' …', expected_s)}", ending="")
        self._out.flush()

    def end(self, row: SwitchDetail) -> None:
        """Print the outcome, with warnings."""
        for text in row.warnings:
            self._out.write(f"Warning: {text}")
        if row.error:
            self._out.write(f"{row.state.value.replace('_', ' ').capitalize()}: {row.error}")
        took = f" ({row.duration_s:.1f} s)" if row.duration_s is not None else ""
        self._out.write(f"{row.outcome or row.state.value}{took}")


def _phase_line(state: State, seconds: float, mark: str, expected_s: float | None) -> str:
    usually = "" if expected_s is None else f"   usually {expected_s:.1f} s"
    return f"  {state.value:<11}{seconds:7.1f} s{mark}{usually}"


def follow(
    switch_id: int, screen: Screen, own: OwnWorker, interrupted: Callable[[SwitchDetail], bool]
) -> SwitchDetail | None:
    """Follow the switch until it has ended, and return it. On Ctrl-C, call `interrupted`; if that
    returns False, stop following and return None."""
    woken = threading.Event()

    def wake(**_: object) -> None:
        woken.set()

    changed.connect(wake)
    own.start()
    try:
        while True:
            try:
                woken.clear()
                row = switch_detail(switch_id)
                screen.show(row)
                if row.ended:
                    screen.end(row)
                    own.finish()
                    return row
                woken.wait(LOOK_INTERVAL_S)
            except KeyboardInterrupt:
                if not interrupted(switch_detail(switch_id)):
                    return None
    finally:
        changed.disconnect(wake)


def exit_code(row: SwitchDetail) -> int:
    """Return 0 for active, 3 for rolled back or cancelled, 4 for failed, 5 for refused."""
    if row.state is State.ACTIVE:
        return ACTIVE
    if row.state in (State.ROLLED_BACK, State.CANCELLED):
        return ROLLED_BACK
    return REFUSED if row.error_code in _REFUSED else FAILED


def _phase_json(phase: RecordedPhase) -> dict[str, Any]:
    times = {"phase": phase.state.value, "at": phase.at.isoformat(), "seconds": phase.seconds}
    return times | ({"note": phase.note} if phase.note else {})


def switch_json(row: SwitchDetail) -> dict[str, Any]:
    """Return the object that `--json` prints."""
    return {
        "success": row.state is State.ACTIVE,
        "state": row.state.value,
        "switch": row.id,
        "host": row.host,
        "model": full_name(row.model),
        "previous_model": full_name(row.previous_model) or None,
        "strategy": row.strategy,
        "already_active": row.already_active,
        "duration_s": row.duration_s,
        "phases": [_phase_json(phase) for phase in row.phases],
        "outcome": row.outcome,
        "error_code": row.error_code or None,
        "error": row.error or None,
        "restored": row.restored or None,
        "degraded": row.degraded,
        "warnings": list(row.warnings),
    }
