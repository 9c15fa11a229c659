"""How long it usually takes and how much it usually is, from this host's own past.

Nothing is claimed without a sample, and each figure names its own.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from switcher.domain.observed import Installed
from switcher.domain.plans import FILE_TO_RESIDENT, Expected, Size
from switcher.domain.specs import Spec
from switcher.domain.states import State, Strategy
from switcher.models import SwitchEvent

LAST = 5
LOOK_BACK = 60


def expected_phases(host_id: int, target: Installed | None) -> dict[Strategy, dict[str, Expected]]:
    """Seconds by phase, for each strategy: the median of the last few switches to this digest on
    this host in this order; for the load else from its bytes over the host's own measured rate."""
    if target is None:
        return {}
    rows = [r for r in _past(host_id) if not _loaded_nothing(r["figures"])]
    return {s: _by_phase(rows, target, s) for s in (Strategy.OVERLAP, Strategy.SWAP)}


def _loaded_nothing(figures: dict[str, Any]) -> bool:
    return bool(figures.get("already_active") or figures.get("was_loaded"))


def _by_phase(
    rows: list[dict[str, Any]], target: Installed, strategy: Strategy
) -> dict[str, Expected]:
    to_it = [r for r in rows if r["to_digest"] == target.digest]
    same = [r for r in to_it if r["strategy"] == strategy.value][:LAST]
    found = {p: e for p in State if (e := _median(same, p.value)) is not None}
    for phase in (State.LOADING, State.WARMING, State.VERIFYING):
        if phase not in found and (e := _median(to_it[:LAST], phase.value)):
            found[phase] = e  # in the other order: nearer than no figure
    for phase in (State.CHECKING, State.DRAINING, State.UNLOADING, State.ACTIVATING):
        if phase not in found and (e := _median(rows[:LAST], phase.value)):
            found[phase] = Expected(e.seconds, "other models here")
    if State.LOADING not in found and (rate := _rate(rows)):
        found[State.LOADING] = Expected(
            target.size / rate, f"its size at {rate / 1e9:.1f} GB/s, as measured here"
        )
    return {p.value: e for p, e in found.items()}


def expected_size(host_id: int, target: Installed | None, spec: Spec) -> Size:
    """Bytes when loaded: as last seen here with the same context, else from the file."""
    if target is None:
        return Size(0, "")
    for row in _past(host_id):
        figures = row["figures"]
        same_context = (row["to_spec"].get("options") or {}).get("num_ctx") == spec.num_ctx
        if row["to_digest"] == target.digest and same_context and figures.get("size"):
            return Size(figures["size"], "as last loaded here")
    return Size(round(target.size * FILE_TO_RESIDENT), "about, from the size of its file")


def usual_gpu_percent(host_id: int, digest: str) -> int | None:
    """The share of this model that lay on the GPU when it was last activated here."""
    for row in _past(host_id):
        if row["to_digest"] == digest and "gpu_percent" in row["figures"]:
            return int(row["figures"]["gpu_percent"])
    return None


def _past(host_id: int) -> list[dict[str, Any]]:
    rows = SwitchEvent.objects.filter(host_id=host_id, state=State.ACTIVE.value)
    wanted = rows.values("to_digest", "strategy", "phases", "figures", "to_spec")[:LOOK_BACK]
    return [dict(row) for row in wanted]


def _median(rows: list[dict[str, Any]], phase: str) -> Expected | None:
    took = [
        p["seconds"]
        for row in rows
        for p in row["phases"]
        if p["phase"] == phase and p["seconds"] is not None
    ]
    if not took:
        return None
    times = "the last switch to it here" if len(took) == 1 else f"the last {len(took)} here"
    return Expected(round(median(took), 3), times)


def _rate(rows: list[dict[str, Any]]) -> float:
    """Bytes a second of this host's past loads that were long enough to measure."""
    rates = [
        row["figures"]["file_bytes"] / row["figures"]["load_s"]
        for row in rows
        if row["figures"].get("load_s", 0) > 0.2 and row["figures"].get("file_bytes")
    ]
    return median(rates[:20]) if rates else 0.0
