"""Play schedules in tests, and choose the points that a sweep over one switch covers."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from tests.faultlab.runs import Result, run_schedule
from tests.faultlab.schedules import Fault, Schedule

# A sweep plays this many points of a switch; with `SWITCHER_FAULTLAB=all` it plays all of them.
POINTS = 2
ALL = os.environ.get("SWITCHER_FAULTLAB") == "all"


def go(*faults: Fault, target: str = "mid-b", strategy: str = "auto", **values: Any) -> Result:
    """Play a schedule and assert that it breaks no invariant."""
    result = run_schedule(Schedule(target, strategy, faults=faults, **values))
    assert not result.violations, "\n".join(map(str, (*result.schedule.lines(), *result.lines)))
    return result


def broken(*faults: Fault, target: str = "big", strategy: str = "swap", **values: Any) -> set[str]:
    """Return the invariants that this schedule breaks."""
    result = run_schedule(Schedule(target, strategy, faults=faults, **values))
    return {v.rule for v in result.violations}


@cache
def faultless(target: str, strategy: str, host: str = "north-1") -> Result:
    """Return the result of this switch without faults."""
    return go(target=target, strategy=strategy, host=host)


def effect(what: str, target: str = "mid-b", strategy: str = "overlap", nth: int = 0) -> int:
    """Return the number of the `nth` effect whose text begins with `what`, in the switch without
    faults."""
    lines = [t for _, t in faultless(target, strategy).lines if ": effect " in t]
    texts = [t.split(": effect ")[1].split(" ", 1)[1] for t in lines]
    return [i for i, t in enumerate(texts) if t.startswith(what)][nth]


def points(total: int, key: object = "") -> list[int]:
    """Return an evenly spread sample of `range(total)`; another `key` gives other points."""
    if ALL or total <= POINTS:
        return list(range(total))
    stride = total / POINTS
    shift = sum(map(ord, str(key))) % int(stride)
    return [int(i * stride) + shift for i in range(POINTS)]


def lines(result: Result, text: str) -> list[float]:
    """Return the simulated times, in seconds, of the lines that contain this text."""
    return [t for t, line in result.lines if text in line]


def has(result: Result, text: str) -> bool:
    return bool(lines(result, text))


# Durations of a load that is cancelled 2.9 s after it began. It begins at 0.009 s and is cut at
# 3.130 s, so these loads end about when the call is cut, and before the server notices that.
ENDS_WHILE_CUT_S = [3.123, 3.14, 3.155, 3.167]


def cancelled_while_loading() -> Fault:
    return Fault(effect("Load"), "cancel", 2.9)


def rate_for(load_s: float) -> float:
    """Return the load rate, in bytes per second, at which loading mid-b takes `load_s` seconds."""
    return 8e9 / load_s


def thawing() -> list[Fault]:
    """Return the faults of a server that freezes when it should load mid-a with other options,
    while somebody cancels."""
    at = effect("Load", "mid-a-long", "auto")
    return [Fault(at, "freeze", args={"seconds": 34.0}), Fault(at, "cancel", 2.0)]
