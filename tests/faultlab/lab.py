"""Running schedules in tests, and choosing those that a sweep over one switch plays."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from tests.faultlab.runs import Result, run_schedule
from tests.faultlab.schedules import Fault, Schedule

# A sweep plays this many points of a switch; `SWITCHER_FAULTLAB=all` has it play each of them.
POINTS = 2
ALL = os.environ.get("SWITCHER_FAULTLAB") == "all"


def go(*faults: Fault, target: str = "mid-b", strategy: str = "auto", **values: Any) -> Result:
    """Run it; the invariants are checked for every schedule."""
    result = run_schedule(Schedule(target, strategy, faults=faults, **values))
    assert not result.violations, "\n".join(map(str, (*result.schedule.lines(), *result.lines)))
    return result


def broken(*faults: Fault, target: str = "big", strategy: str = "swap", **values: Any) -> set[str]:
    """The rules that this schedule breaks."""
    result = run_schedule(Schedule(target, strategy, faults=faults, **values))
    return {v.rule for v in result.violations}


@cache
def faultless(target: str, strategy: str, host: str = "north-1") -> Result:
    """The same switch without faults."""
    return go(target=target, strategy=strategy, host=host)


def effect(what: str, target: str = "mid-b", strategy: str = "overlap", nth: int = 0) -> int:
    """The number of the effect that begins so, in a switch without faults."""
    lines = [t for _, t in faultless(target, strategy).lines if ": effect " in t]
    texts = [t.split(": effect ")[1].split(" ", 1)[1] for t in lines]
    return [i for i, t in enumerate(texts) if t.startswith(what)][nth]


def points(total: int, key: object = "") -> list[int]:
    """Some of `total` points in a row, evenly spread; another `key` gives others."""
    if ALL or total <= POINTS:
        return list(range(total))
    stride = total / POINTS
    shift = sum(map(ord, str(key))) % int(stride)
    return [int(i * stride) + shift for i in range(POINTS)]


def lines(result: Result, text: str) -> list[float]:
    """When lines with this text were written, in seconds of the simulation."""
    return [t for t, line in result.lines if text in line]


def has(result: Result, text: str) -> bool:
    return bool(lines(result, text))


# A cancel 2.9 s into the load: the call is cut 3.130 s after the switch began, and the load begins
# after 0.009 s. So these end between the cut and the moment at which the server notices it.
ENDS_WHILE_CUT_S = [3.123, 3.14, 3.155, 3.167]


def cancelled_while_loading() -> Fault:
    return Fault(effect("Load"), "cancel", 2.9)


def rate_for(load_s: float) -> float:
    """Bytes a second with which mid-b takes so long to load."""
    return 8e9 / load_s


def thawing() -> list[Fault]:
    """A server that freezes as it is to load mid-a with other options, and a cancel meanwhile."""
    at = effect("Load", "mid-a-long", "auto")
    return [Fault(at, "freeze", args={"seconds": 34.0}), Fault(at, "cancel", 2.0)]
