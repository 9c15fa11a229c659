"""Faults as data: problems that real servers have, here on demand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ollama_simulator.catalog import full_name
from ollama_simulator.runner import Failure

OUT_OF_MEMORY = "llama runner process has terminated: cudaMalloc failed: out of memory"
# Each kind, with its fields and their defaults. All except the acts also take `times`: how often
# the fault occurs; null: until it is cleared.
FAULTS: dict[str, dict[str, Any]] = {
    # Loading `tag` (any if empty) fails after `after_s` seconds. With `evict_all` it runs out of
    # memory, which evicts all other models (fact 15); then the load `recovers` or fails for good.
    "fail_load": {
        "tag": "",
        "status": 500,
        "message": OUT_OF_MEMORY,
        "after_s": 0.0,
        "evict_all": False,
        "recovers": False,
    },
    "cpu": {"tag": "", "share": 0.0},  # share of the loaded model that is in VRAM
    "slow_load": {"tag": "", "factor": 10.0},
    "hang": {"path": ""},  # the request is accepted and never answered
    "delay": {"path": "", "seconds": 0.2},
    "half": {"path": ""},  # the response stops halfway
    "drip": {"path": "", "seconds": 0.2},  # one byte at a time
    "html": {"path": ""},
    "error": {"path": "", "status": 500, "message": "internal server error"},
    "huge": {"path": "", "bytes": 67_108_864},
    "redirect": {"path": "", "location": "/elsewhere"},
    "cut_stream": {"tag": "", "tokens": 3},
    "done_false": {"tag": "", "tokens": 3},  # fact 10
    "ignore_unload": {"tag": ""},
    "torn_copy": {"seconds": 0.5},  # fact 26, but lasting
    "new_content": {"tag": ""},  # its next pull brings different content (fact 23)
}
ACTS: dict[str, dict[str, Any]] = {
    "restart": {"seconds": 0.0},  # how long the port is closed
    "refuse": {"seconds": 5.0},
    "evict": {"tag": ""},
    "kill_runner": {"tag": ""},
    "repull": {"tag": ""},  # the name now means different content (fact 23)
}
_RANGES = {
    "status": (200, 599),
    "share": (0.0, 1.0),
    "factor": (0.0, math.inf),
    "seconds": (0.0, 3600.0),
    "after_s": (0.0, 3600.0),
    "tokens": (0, 1_000_000),
    "bytes": (1, 2**31),
    "times": (1, 1_000_000),
}


class BadFault(ValueError):
    """An invalid fault; the text says why."""


@dataclass(slots=True)
class Fault:
    """A validated fault: its kind and all fields of that kind."""

    kind: str
    fields: dict[str, Any]
    times: int | None = None

    def strikes(self, kind: str, tag: str, path: str) -> bool:
        if self.kind != kind:
            return False
        wanted = self.fields.get("tag")
        if wanted and full_name(wanted).lower() != full_name(tag).lower():
            return False
        return path.startswith(self.fields.get("path", ""))


def read_fault(row: object) -> Fault:
    """Validate a fault or act from parsed JSON. Raises `BadFault`."""
    if not isinstance(row, Mapping):
        raise BadFault("a fault must be an object with a kind")
    kind = row.get("kind")
    known = FAULTS | ACTS
    if not isinstance(kind, str) or kind not in known:
        raise BadFault(f"no fault of kind {kind!r}; there are: {', '.join(known)}")
    fields = dict(known[kind])
    allowed = {*fields, "times"} if kind in FAULTS else set(fields)
    for name in row.keys() - {"kind"} - allowed:
        has = ", ".join(sorted(allowed))
        raise BadFault(f"{kind} has no field {name!r}; it has: {has}")
    times = row.get("times")
    if times is not None:
        _check("times", times, 1)
    for name in fields.keys() & row.keys():
        _check(name, row[name], fields[name])
        fields[name] = row[name]
    if kind in ACTS and "tag" in fields and not fields["tag"]:
        raise BadFault(f"{kind} needs a tag")
    return Fault(kind, fields, times)


def _check(name: str, value: object, like: object) -> None:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    good = {
        bool: isinstance(value, bool),
        str: isinstance(value, str),
        int: numeric and isinstance(value, int),
        float: numeric,
    }[type(like)]
    if not good:
        words = {bool: "true or false", str: "a text", int: "a whole number", float: "a number"}
        raise BadFault(f"{name} must be {words[type(like)]}, not {value!r}")
    least, most = _RANGES.get(name, (-math.inf, math.inf))
    if isinstance(value, int | float) and not least <= value <= most:
        raise BadFault(f"{name} must be from {least} to {most}, not {value!r}")


class Faults:
    """The faults that are currently set, as the scheduler's source of failures."""

    def __init__(self) -> None:
        self.rows: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self.rows.append(fault)

    def clear(self) -> None:
        self.rows.clear()

    def take(self, kind: str, tag: str = "", path: str = "") -> dict[str, Any] | None:
        """Use up one occurrence of the first matching fault and return its fields."""
        for fault in self.rows:
            if fault.strikes(kind, tag, path):
                if fault.times is not None:
                    fault.times -= 1
                    self.rows = [f for f in self.rows if f.times != 0]
                return fault.fields
        return None

    def load_failure(self, name: str) -> Failure | None:
        row = self.take("fail_load", tag=name)
        if row is None:
            return None
        return Failure(
            row["status"], row["message"], row["after_s"], row["evict_all"], row["recovers"]
        )

    def vram_share(self, name: str) -> float | None:
        row = self.take("cpu", tag=name)
        return None if row is None else float(row["share"])

    def load_factor(self, name: str) -> float:
        row = self.take("slow_load", tag=name)
        return 1.0 if row is None else float(row["factor"])

    def ignores_unload(self, name: str) -> bool:
        return self.take("ignore_unload", tag=name) is not None
