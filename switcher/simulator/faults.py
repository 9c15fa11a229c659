"""Faults on demand, as data, set over `/_sim/faults`, which a real server does not have."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from switcher.simulator.catalog import Manifest, full_name

KINDS = {
    "fail_load": "loading `tag` (any if empty) answers `status` with `message`; "
    "`evict_all` makes it an out-of-memory that costs all others (fact 15)",
    "cpu": "the next load has `share` of itself in VRAM (0: all on the CPU)",
    "slow_load": "loads take `factor` times as long",
    "hang": "requests to `path` are accepted and never answered",
    "delay": "requests to `path` wait `seconds` first",
    "half": "answers to `path` break off in the middle",
    "drip": "answers to `path` come a byte every `seconds`",
    "html": "answers to `path` are an HTML page with status 200",
    "error": "answers to `path` are `status` with `message`",
    "huge": "answers to `path` are 64 MB long",
    "redirect": "answers to `path` are a redirect",
    "cut_stream": "streams break off after `tokens` tokens",
    "done_false": "generations end with done:false (fact 10)",
    "ignore_unload": "`tag` does not leave when asked",
}


@dataclass(slots=True)
class Fault:
    """One fault. `times` is how often it still strikes; None: until it is cleared."""

    kind: str
    tag: str = ""
    path: str = ""
    status: int = 500
    message: str = "llama runner process has terminated: cudaMalloc failed: out of memory"
    evict_all: bool = False
    share: float = 0.0
    factor: float = 10.0
    seconds: float = 0.2
    tokens: int = 3
    times: int | None = None

    def strikes(self, kind: str, tag: str = "", path: str = "") -> bool:
        if self.kind != kind or self.times == 0:
            return False
        if self.tag and full_name(self.tag) != full_name(tag or "-"):
            return False
        return path.startswith(self.path)


class Faults:
    """Those that are set now."""

    def __init__(self) -> None:
        self.rows: list[Fault] = []

    def add(self, row: dict[str, Any]) -> Fault:
        """Raises ValueError with a sentence for what is not a fault."""
        kind = row.get("kind")
        if kind not in KINDS:
            raise ValueError(f"no fault of kind {kind!r}; there are: {', '.join(KINDS)}")
        types = {f.name: f.type for f in fields(Fault)}
        for name, value in row.items():
            if name not in types:
                raise ValueError(f"a fault has no field {name!r}")
            wanted = str(types[name])
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            good = {
                "str": isinstance(value, str),
                "int": isinstance(value, int) and is_number,
                "float": is_number,
                "bool": isinstance(value, bool),
                "int | None": value is None or (isinstance(value, int) and is_number),
            }[wanted]
            if not good:
                raise ValueError(f"{name} must be of type {wanted}")
        fault = Fault(**row)
        self.rows.append(fault)
        return fault

    def clear(self) -> None:
        self.rows.clear()

    def take(self, kind: str, tag: str = "", path: str = "") -> Fault | None:
        """The first fault of this kind that strikes here, counted down."""
        for fault in self.rows:
            if fault.strikes(kind, tag, path):
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None

    # -- what the machine asks

    def load_fault(self, name: str, manifest: Manifest) -> tuple[int, str, bool] | None:
        if manifest.fail:
            return 500, manifest.fail, False
        fault = self.take("fail_load", tag=name)
        return (fault.status, fault.message, fault.evict_all) if fault else None

    def vram_share(self, name: str) -> float | None:
        fault = self.take("cpu", tag=name)
        return fault.share if fault else None

    def load_factor(self, name: str) -> float:
        fault = self.take("slow_load", tag=name)
        return fault.factor if fault else 1.0

    def ignores_unload(self, name: str) -> bool:
        return self.take("ignore_unload", tag=name) is not None
