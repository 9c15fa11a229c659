"""Running schedules: one after the other, each on the same ground."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import transaction

from switcher.models import SwitchEvent
from tests.faultlab import invariants
from tests.faultlab.schedules import Schedule
from tests.faultlab.world import Violation, World


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one schedule."""

    schedule: Schedule
    violations: tuple[Violation, ...]
    states: tuple[str, ...]  # of the switches, in the end
    effects: int
    writes: int
    lines: tuple[tuple[float, str], ...]
    rows: tuple[SwitchEvent, ...] = ()


def run_schedule(schedule: Schedule) -> Result:
    """Run it and check what must hold. Its rows are rolled back: the next starts from the same."""
    with transaction.atomic():
        world = World(schedule)
        world.run()
        violations = tuple(invariants.check(world))
        rows = tuple(world.rows())
        transaction.set_rollback(True)
    return Result(
        schedule,
        violations,
        tuple(r.state for r in rows),
        world.effects,
        world.writes,
        tuple(world.timeline.lines),
        rows,
    )
