"""Estimates of phase durations and model sizes, from what a host has done before.

Nothing is estimated without samples, and each number names its source.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from switcher.domain.observed import Installed
from switcher.domain.plan_inputs import Expected
from switcher.domain.states import State, Strategy
from switcher.models import Host, SwitchEvent

MAX_SAMPLES = 5
MAX_SWITCHES = 60
MAX_LOADS = 20
MIN_LOAD_S = 0.2  # shorter loads say nothing about the disk's speed


def expected_phases(host_id: int, target: Installed | None) -> dict[Strategy, dict[str, Expected]]:
    """Return the expected seconds by phase, for each strategy.

    That is the median of the last switches to this digest on this host with this strategy. If
    there are none, a load is estimated from the model's size and the host's measured rate.
    """
    if target is None:
        return {}
    rows = [r for r in _past(host_id) if not _loaded_nothing(r["figures"])]
    return {s: _by_phase(rows, target, s) for s in (Strategy.OVERLAP, Strategy.SWAP)}


def _loaded_nothing(figures: dict[str, Any]) -> bool:
    return bool(figures.get("already_active") or figures.get("was_loaded"))


def _by_phase(
    rows: list[dict[str, Any]], target: Installed, strategy: Strategy
) -> dict[str, Expected]:
    to_target = [r for r in rows if r["to_digest"] == target.digest]
    same_strategy = [r for r in to_target if r["strategy"] == strategy.value]
    found = {p: e for p in State if (e := _median(same_strategy, p))}
    for phase in (State.LOADING, State.WARMING, State.VERIFYING):
        if phase not in found and (e := _median(to_target, phase)):
            found[phase] = e  # with the other strategy: better than no number
    for phase in (State.CHECKING, State.DRAINING, State.UNLOADING, State.ACTIVATING):
        if phase not in found and (e := _median(rows, phase)):
            found[phase] = Expected(e.seconds, "other models here")
    if State.LOADING not in found and (rate := _bytes_per_s(rows)):
        source = f"its size at {rate / 1e9:.1f} GB/s, as measured here"
        found[State.LOADING] = Expected(target.size / rate, source)
    return {p.value: e for p, e in found.items()}


@dataclass(frozen=True, slots=True)
class Past:
    """One past load of a model by a switch: what was asked for, and what it got. 0 if unknown."""

    num_ctx: int | None
    context: int
    size: int


def past_loads(host: Host, digest: str) -> list[Past]:
    """Return the loads of a model by switches to it that still tell what it takes, the newest
    first."""
    since = host.sizes_since
    rows = [
        row
        for row in _past(host.pk)
        if row["to_digest"] == digest and (since is None or row["created_at"] > since)
    ]
    return [
        Past(
            num_ctx=(row["to_spec"].get("options") or {}).get("num_ctx"),
            context=row["figures"].get("context_length") or 0,
            size=row["figures"].get("size") or 0,
        )
        for row in rows
    ]


def usual_gpu_percent(host_id: int, digest: str) -> int | None:
    """Return the GPU share that a model had when it was last activated on this host."""
    for row in _past(host_id):
        if row["to_digest"] == digest and "gpu_percent" in row["figures"]:
            return int(row["figures"]["gpu_percent"])
    return None


def _past(host_id: int) -> list[dict[str, Any]]:
    rows = SwitchEvent.objects.filter(host_id=host_id, state=State.ACTIVE.value)
    columns = rows.values("to_digest", "strategy", "phases", "figures", "to_spec", "created_at")
    return [dict(row) for row in columns[:MAX_SWITCHES]]


def _median(rows: list[dict[str, Any]], state: State) -> Expected | None:
    seconds = [
        phase["seconds"]
        for row in rows[:MAX_SAMPLES]
        for phase in row["phases"]
        if phase["phase"] == state.value and phase["seconds"] is not None
    ]
    if not seconds:
        return None
    many = f"the last {len(seconds)} here"
    source = "the last switch to it here" if len(seconds) == 1 else many
    return Expected(round(median(seconds), 3), source)


def _bytes_per_s(rows: list[dict[str, Any]]) -> float:
    """Return the rate of this host's past loads that were long enough to measure; 0 if none."""
    rates = [
        row["figures"]["file_bytes"] / row["figures"]["load_s"]
        for row in rows
        if row["figures"].get("load_s", 0) > MIN_LOAD_S and row["figures"].get("file_bytes")
    ]
    return median(rates[:MAX_LOADS]) if rates else 0.0
