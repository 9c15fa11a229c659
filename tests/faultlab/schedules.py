"""A schedule, as data: a switch, and faults that are tied to its effects and writes.

A schedule follows from its seed and number, so these two are enough to play it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

TARGETS = ("mid-b", "big", "mid-a", "mid-a-long", "embed", "mid-b-picky")
HOSTS = ("north-1", "north-2", "north-3")  # holding mid-a; nothing; mid-a and embed
STRATEGIES = ("auto", "overlap", "swap")
FAST, SLOW = 2e9, 0.4e9  # with SLOW, each load lasts longer than a lease
TAGS = ("mid-a", "mid-b", "big", "embed")


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that happens `after_s` seconds after effect (or write) number `at` has begun.

    `kind` is one of KINDS, and `args` are the arguments of that kind.
    """

    at: int
    kind: str
    after_s: float = 0.0
    args: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        args = "".join(f" {k}={v}" for k, v in self.args.items())
        what = "write" if self.kind == "crash_write" else "effect"
        return f"{what} {self.at} +{self.after_s:g} s: {self.kind}{args}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """The switch to play, and what goes wrong with it."""

    target: str = "mid-b"
    strategy: str = "auto"
    host: str = "north-1"
    faults: tuple[Fault, ...] = ()
    restart_s: float = 3.0  # from the end of a process to the start of the next
    load_rate: float = FAST  # bytes a second
    second_offset_s: float = 0.7  # between the rounds of the first and the second process
    seed: int = 0
    number: int = 0

    def lines(self) -> list[str]:
        """Return the schedule as lines for people."""
        head = f"{self.host} to {self.target}, {self.strategy}; a dead process starts again "
        rate = f"loads at {self.load_rate / 1e9:g} GB/s"
        return [f"{head}after {self.restart_s:g} s; {rate}", *(str(f) for f in self.faults)]


def _seconds(r: Random) -> float:
    return r.choice((0.001, 0.01, 0.1, 0.5, 1.0, 2.5, 4.0, 7.0))


def _long(r: Random) -> float:
    return r.choice((0.5, 3.0, 14.5, 15.5, 17.0, 20.0, 28.0, 40.0))


def _tag(r: Random) -> dict[str, Any]:
    return {"tag": r.choice(TAGS)}


def _client(r: Random) -> dict[str, Any]:
    keep_alive = r.choice((None, 0, 0, "1s", "30m", -1))
    tokens = r.choice((0, 0, 8, 240, 600))
    return {"tag": r.choice(TAGS), "keep_alive": keep_alive, "tokens": tokens}


def _fail_load(r: Random) -> dict[str, Any]:
    after_s = r.choice((0.0, 1.0, 3.0))
    return {"tag": r.choice(TAGS), "after_s": after_s, "evict_all": r.random() < 0.3}


# For each kind: its weight in random schedules, and how its arguments are chosen.
KINDS: dict[str, tuple[int, Callable[[Random], dict[str, Any]]]] = {
    # The worker
    "crash": (10, lambda r: {}),  # before the call, or `after_s` into it
    "crash_answered": (5, lambda r: {}),  # as the answer arrives
    "crash_write": (4, lambda r: {"after": r.random() < 0.5}),
    "pause": (14, lambda r: {"seconds": _long(r), "answer_first": r.random() < 0.6}),
    "stop": (2, lambda r: {}),  # must leave the switch to the next process
    "renewals_fail": (7, lambda r: {"seconds": r.choice((6.0, 20.0, 30.0))}),
    # The network, for this effect only
    "lose_request": (3, lambda r: {}),
    "lose_answer": (4, lambda r: {}),
    "slow_request": (3, lambda r: {"seconds": r.choice((0.05, 0.5, 2.0))}),
    "late_answer": (4, lambda r: {"seconds": r.choice((0.3, 3.0, 6.0, 16.0))}),
    "hang": (1, lambda r: {}),
    # The host
    "evict": (4, _tag),
    "restart": (3, lambda r: {"seconds": r.choice((0.0, 0.5, 5.0))}),
    "freeze": (2, lambda r: {"seconds": r.choice((0.5, 4.0, 12.0, 40.0))}),
    "repull": (3, _tag),
    "kill_runner": (2, _tag),
    "client": (8, _client),
    "fail_load": (5, _fail_load),
    "slow_load": (6, lambda r: {"tag": r.choice(TAGS), "factor": r.choice((2.0, 6.0))}),
    "ignore_unload": (2, _tag),
    "cpu": (1, _tag),
    # People
    "cancel": (6, lambda r: {}),
    "ask": (3, lambda r: {"target": r.choice(TARGETS)}),
    "set_clock": (2, lambda r: {"seconds": r.choice((-3600.0, -20.0, 20.0, 3600.0))}),
    "in_flight": (1, lambda r: {"seconds": r.choice((0.5, 3.0))}),
}
WIRE = frozenset({"lose_request", "lose_answer", "slow_request", "late_answer", "hang"})
_NAMES = list(KINDS)
_WEIGHTS = [weight for weight, _ in KINDS.values()]


def make_fault(r: Random, kind: str, most: int) -> Fault:
    """Make a fault of this kind at one of the first `most` effects."""
    after_s = 0.0 if r.random() < 0.4 or kind in WIRE else _seconds(r)
    return Fault(r.randrange(most), kind, after_s, KINDS[kind][1](r))


def make_schedule(seed: int, number: int) -> Schedule:
    """Make the schedule with this number."""
    r = Random(f"{seed}:{number}")
    target = r.choices(TARGETS, (6, 6, 1, 2, 2, 1))[0]
    strategy = r.choices(STRATEGIES, (3, 2, 2))[0]
    host = r.choices(HOSTS, (6, 1, 3))[0]
    count = r.choices((0, 1, 2, 3, 4, 6), (1, 6, 8, 6, 4, 2))[0]
    most = r.choice((12, 18, 30))
    kinds = r.choices(_NAMES, _WEIGHTS, k=count)
    faults = sorted((make_fault(r, k, most) for k in kinds), key=lambda f: (f.at, f.after_s))
    restart_s = r.choice((0.2, 3.0, 12.0, 30.0))
    load_rate = r.choices((FAST, SLOW), (3, 1))[0]
    offset_s = r.choice((0.1, 0.7, 1.9))
    return Schedule(
        target, strategy, host, tuple(faults), restart_s, load_rate, offset_s, seed, number
    )
