"""Bars of memory as numbers: templates put them into SVG attributes, never into `style`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from switcher.domain.observed import Resident
from switcher.domain.plan_inputs import Item
from switcher.domain.plans import Plan
from switcher.domain.wording import NBSP, gb

KINDS = {
    "active": "active",
    "pin": "pinned",
    "other": "loaded by others",
    "ghost": "overdue",
    "leave": "leaves",
    "arrive": "arrives",
    "lost": "last known",
}


@dataclass(frozen=True, slots=True)
class Part:
    """One model in a bar; `kind` is a key of KINDS."""

    kind: str
    name: str
    bytes: int

    @property
    def words(self) -> str:
        return f"{self.name} {gb(self.bytes)}{NBSP}GB {KINDS[self.kind]}"


@dataclass(frozen=True, slots=True)
class Segment:
    """A part with its position. `x` and `width` are percentages, for SVG."""

    part: Part
    x: str
    width: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of used and total memory. `total` is None if not set: Ollama does not report it."""

    segments: tuple[Segment, ...]
    used: int
    total: int | None
    text: str


def bar(title: str, parts: Iterable[Part], total: int | None, scale: int | None = None) -> Bar:
    """Lay parts side by side. `scale` is what the whole width stands for; by default, the total."""
    rows = tuple(p for p in parts if p.bytes)
    used = sum(p.bytes for p in rows)
    whole = max(scale or total or 0, used) or 1
    left, segments = 0.0, []
    for part in rows:
        width = 100 * part.bytes / whole
        segments.append(Segment(part, f"{left:.2f}%", f"{width:.2f}%"))
        left += width
    of = f" of {gb(total)}" if total else ""
    names = f" {', '.join(p.words for p in rows)}." if rows else ""
    return Bar(tuple(segments), used, total, f"{title}: {gb(used)}{of}{NBSP}GB.{names}")


def plan_bars(plan: Plan) -> tuple[Bar, Bar]:
    """Return the memory before and after a plan, on one scale."""
    scale = plan.vram_bytes or max(plan.bytes_before, plan.bytes_after, 1)
    kept = [_item("pin" if i.role == "pinned" else "other", i) for i in plan.keep]
    leaving = [_item("leave", i) for i in plan.unload]
    # A loaded model that is neither unloaded nor kept is the new one itself.
    loaded = plan.bytes_before - sum(p.bytes for p in [*kept, *leaving])
    active = [Part("active", plan.load.short, loaded)] if loaded > 0 else []
    pinned = [_item("arrive", i) for i in plan.reload]
    after = [_item("active" if loaded > 0 else "arrive", plan.load), *kept, *pinned]
    return (
        bar("VRAM now", [*leaving, *active, *kept], plan.vram_bytes, scale),
        bar("VRAM after", after, plan.vram_bytes, scale),
    )


def record_bars(
    before: tuple[Resident, ...],
    after: tuple[Resident, ...] | None,
    active: tuple[str, str],
    total: int | None,
) -> tuple[Bar, Bar | None]:
    """Return the memory before and after a switch, on one scale. `active` are the digests of the
    active model before and after."""
    scale = max(total or 0, *(sum(r.bytes for r in rows or ()) for rows in (before, after)))
    stayed = {r.digest for r in (before if after is None else after)}
    old = [_resident(r, active[0], leaves=r.digest not in stayed) for r in before]
    first = bar("Before", old, total, scale)
    if after is None:
        return first, None
    return first, bar("After", [_resident(r, active[1]) for r in after], total, scale)


def _resident(r: Resident, active: str, leaves: bool = False) -> Part:
    kind = "leave" if leaves else "active" if r.digest == active else "other"
    return Part(kind, r.name.short, r.bytes)


def _item(kind: str, item: Item) -> Part:
    return Part(kind, item.short, item.bytes)
