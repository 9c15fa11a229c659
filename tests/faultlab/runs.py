"""Play one schedule after another, each from the same starting point."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import transaction

from switcher.models import SwitchEvent
from tests.faultlab import invariants
from tests.faultlab.schedules import Schedule
from tests.faultlab.world import Violation, World


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one schedule."""

    schedule: Schedule
    violations: tuple[Violation, ...]
    states: tuple[str, ...]  # of the switches, in the end
    effects: int
    writes: int
    lines: tuple[tuple[float, str], ...]
    rows: tuple[SwitchEvent, ...] = ()


def run_schedule(schedule: Schedule) -> Result:
    """Play a schedule and check the invariants. Its rows are rolled back, so that the next schedule
    starts from the same database."""
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
