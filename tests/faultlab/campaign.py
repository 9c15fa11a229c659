"""Play many schedules: spread them over processes, add up the results, and print progress."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.faultlab import database
from tests.faultlab.runs import Result, run_schedule
from tests.faultlab.schedules import make_schedule

Say = Callable[[str], object]
CHUNK = 50
TELL_EVERY_S = 5.0
MAX_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Sum:
    """The combined results of some schedules."""

    schedules: int
    effects: int
    ends: Counter[str]
    broken: tuple[Result, ...]


@dataclass(slots=True)
class Report:
    """The combined results of all schedules that were played so far."""

    seed: int
    schedules: int = 0
    effects: int = 0
    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    broken: list[int] = field(default_factory=list)

    @property
    def violations(self) -> int:
        return sum(self.rules.values())

    def add(self, part: Sum, seconds: float) -> None:
        self.schedules += part.schedules
        self.effects += part.effects
        self.seconds = seconds
        self.ends += part.ends
        for result in part.broken:
            self.broken.append(result.schedule.number)
            self.rules.update(v.rule for v in result.violations)

    def line(self) -> str:
        ends = "".join(f"{self.ends[e]:>13,}" for e in ENDS)
        return f"{self.schedules:>10,}{ends}{self.violations:>12,}{self.seconds:>9.0f} s"

    def to_json(self) -> str:
        row = {
            "seed": self.seed,
            "schedules": self.schedules,
            "violations": self.violations,
            "seconds": round(self.seconds, 1),
            "effects": self.effects,
            "ends": dict(sorted(self.ends.items())),
            "rules": dict(sorted(self.rules.items())),
            "broken": sorted(self.broken),
        }
        return json.dumps(row)


ENDS = ("active", "rolled_back", "failed", "cancelled")
HEAD = f"{'schedules':>10}" + "".join(f"{e:>13}" for e in ENDS) + f"{'violations':>12}{'time':>11}"


def run(seed: int, numbers: range, jobs: int, say: Say) -> Report:
    """Play the schedules with these numbers. `say` receives the lines of the table, and each
    schedule that broke an invariant."""
    began = told = time.monotonic()
    report = Report(seed)
    say(HEAD)
    for part in _parts(seed, numbers, jobs):
        report.add(part, time.monotonic() - began)
        for result in part.broken:
            if len(report.broken) <= MAX_SHOWN:
                _tell(result, say)
        if time.monotonic() - told > TELL_EVERY_S:
            told = time.monotonic()
            say(report.line())
    report.seconds = time.monotonic() - began
    say(report.line())
    return report


def _tell(result: Result, say: Say) -> None:
    s = result.schedule
    say(f"\nSchedule {s.number} is broken; see it with --seed {s.seed} --replay {s.number}")
    for line in (*s.lines(), *map(str, result.violations)):
        say(f"  {line}")


def _parts(seed: int, numbers: range, jobs: int) -> Iterator[Sum]:
    chunks = [(seed, numbers[i : i + CHUNK]) for i in range(0, len(numbers), CHUNK)]
    jobs = min(jobs or os.cpu_count() or 1, len(chunks))
    if jobs == 1 or "fork" not in multiprocessing.get_all_start_methods():
        _prepare()
        yield from map(_run_chunk, chunks)
        return
    # Forked before any database is open: each process makes its own, in memory.
    with multiprocessing.get_context("fork").Pool(jobs, _prepare) as pool:
        yield from pool.imap_unordered(_run_chunk, chunks)


def _prepare() -> None:
    logging.getLogger("switcher").setLevel(logging.CRITICAL)
    database.use_memory()
    database.fill()


def _run_chunk(chunk: tuple[int, range]) -> Sum:
    seed, numbers = chunk
    results = [run_schedule(make_schedule(seed, n)) for n in numbers]
    ends = Counter(state for r in results for state in r.states)
    broken = tuple(r for r in results if r.violations)
    return Sum(len(results), sum(r.effects for r in results), ends, broken)


def replay(seed: int, number: int, say: Say) -> int:
    """Play one schedule, print everything that happened, and return the number of violations."""
    _prepare()
    result = run_schedule(make_schedule(seed, number))
    for line in result.schedule.lines():
        say(line)
    for t, text in result.lines:
        say(f"{t:>10.3f} s  {text}")
    for row in result.rows:
        say(f"{row}: {row.outcome} {row.error}".rstrip())
        for warning in row.warnings:
            say(f"  {warning}")
    for violation in result.violations:
        say(f"VIOLATION: {violation}")
    summary = {"seed": seed, "number": number, "violations": len(result.violations)}
    say(json.dumps(summary))
    return len(result.violations)
