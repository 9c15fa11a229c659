"""One switch as its panel, its page and the lists show it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from switcher.domain.observed import Resident, short_name
from switcher.domain.plans import gb
from switcher.domain.specs import Spec
from switcher.domain.states import ENDED, OPEN, WORDS, State
from switcher.domain.wording import NBSP, came_from, keep_alive_words
from switcher.models import SwitchEvent
from switcher.queries.bars import Bar, bytes_of, record_bars
from switcher.queries.listing import Filters, ListedSwitch, SwitchPage, switch_list
from switcher.queries.phases import (
    Course,
    Phase,
    Stretch,
    course,
    failed_phase,
    rail,
    timeline,
    without_model_s,
)

__all__ = [
    "Filters",
    "ListedSwitch",
    "SwitchPage",
    "SwitchView",
    "switch_list",
    "switch_view",
    "view_of",
]

# How each end looks: the state of its panel, of its words, of its cord.
_LOOKS = {
    State.ACTIVE: "ok",
    State.ROLLED_BACK: "failed",
    State.FAILED: "failed",
    State.CANCELLED: "none",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One line of before and after. `mono`: the values are names or digests."""

    label: str
    before: str
    after: str
    mono: bool = False

    @property
    def changed(self) -> bool:
        return self.before != self.after


@dataclass(frozen=True, slots=True)
class SwitchView:
    """All that is shown of one switch. Model names are as people write them."""

    id: int
    host: str
    host_id: int
    host_there: bool
    simulated: bool
    state: str
    word: str
    look: str  # busy, ok, failed, none
    is_open: bool
    from_model: str
    to_model: str
    profile: str
    strategy: str
    strategy_asked: str
    strategy_reason: str
    actor: str
    source: str
    came_from: str
    reason: str
    began_at: datetime
    ended_at: datetime | None
    now: datetime
    expected_s: float | None
    sample: str
    rail: tuple[Phase, ...]
    timeline: tuple[Stretch, ...]
    stopped_in: str  # the word of the phase it stopped in
    without_model_s: float | None
    outcome: str
    error: str
    error_code: str
    restored: str
    warnings: tuple[str, ...]
    degraded: bool
    seen_by: str
    cancel_asked_by: str
    plan_token: str
    figures: dict[str, Any]
    differences: tuple[Difference, ...]
    before_bar: Bar | None
    after_bar: Bar | None
    record: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        """Model names that sentences about this switch may hold, to be set in mono."""
        return tuple(n for n in (self.to_model, self.from_model) if n)

    @property
    def elapsed_s(self) -> float:
        return ((self.ended_at or self.now) - self.began_at) / timedelta(seconds=1)

    @property
    def left_s(self) -> float | None:
        """About how long it still takes; None where nothing is claimed, negative when over."""
        return None if self.expected_s is None else self.expected_s - self.elapsed_s

    @property
    def restoring(self) -> bool:
        return self.state == State.RESTORING.value

    @property
    def can_cancel(self) -> bool:
        """Open, nobody asked yet, and not on its way back already."""
        return self.is_open and not self.cancel_asked_by and not self.restoring

    @property
    def nothing_touched(self) -> bool:
        """It ended before anything was changed on the host."""
        return (
            not self.is_open
            and not self.degraded
            and not any(s.phase.key == State.RESTORING.value for s in self.timeline)
        )

    @property
    def needs_a_look(self) -> bool:
        return self.look == "failed" and not self.seen_by

    @property
    def title(self) -> str:
        """The heading of its panel."""
        if self.is_open:
            return f"Restoring {self.host}" if self.restoring else f"Switching {self.host}"
        if self.look == "ok":
            return f"Switched {self.host}"
        if self.look == "none":
            return f"Cancelled on {self.host}"
        return f"Failed while {self.stopped_in.lower()}" if self.stopped_in else "Failed"

    @property
    def end_words(self) -> str:
        """How it ended, for a line: `Failed, restored`."""
        return end_words(self.state, self.degraded, bool(self.restored))


def end_words(state: str, degraded: bool, restored: bool) -> str:
    """The outcome in two words; for one that goes on, its phase."""
    if degraded:
        return "Active, then lost" if state == State.ACTIVE else "Failed, not restored"
    words = {State.ROLLED_BACK: "Failed", State.FAILED: "Failed", State.CANCELLED: "Cancelled"}
    word = words.get(State(state), WORDS[State(state)])
    return f"{word}, restored" if restored and State(state) in words else word


def switch_view(switch_id: int, now: datetime | None = None) -> SwitchView | None:
    """One switch, in one query; None if there is none of this number."""
    row = rows_with_all().filter(pk=switch_id).first()
    return None if row is None else view_of(row, now or datetime.now(UTC))


def open_switch_on(host: str, now: datetime | None = None) -> SwitchView | None:
    """The switch that runs on a host now, if one does."""
    states = sorted(s.value for s in OPEN)
    rows = rows_with_all().filter(host__name=host, host__removed_at=None, state__in=states)
    row = rows.first()
    return None if row is None else view_of(row, now or datetime.now(UTC))


def rows_with_all() -> Any:
    """Switches with what a view needs of other tables."""
    return SwitchEvent.objects.select_related("host", "origin", "seen")


def neighbours(switch_id: int, host_id: int) -> tuple[int | None, int | None]:
    """The switches before and after it on the same host."""
    rows = SwitchEvent.objects.filter(host_id=host_id)
    earlier = rows.filter(pk__lt=switch_id).order_by("-id").values_list("id", flat=True).first()
    later = rows.filter(pk__gt=switch_id).order_by("id").values_list("id", flat=True).first()
    return earlier, later


def view_of(row: SwitchEvent, now: datetime) -> SwitchView:
    """The view of a row that was read with its host, origin and `seen`."""
    state, plan = State(row.state), row.plan or {}
    c = course(row.state, row.strategy, row.strategy_asked, row.phases, row.plan)
    spec = Spec.from_json(row.to_spec)
    before, after = _residents(row.before), _residents(row.after)
    bars = _bars(row, before, after)
    seen = getattr(row, "seen", None)
    return SwitchView(
        id=row.pk,
        host=row.host.name,
        host_id=row.host_id,
        host_there=row.host.removed_at is None,
        simulated=row.host.simulated,
        state=row.state,
        word=WORDS[state],
        look=_LOOKS.get(state, "busy"),
        is_open=state not in ENDED,
        from_model=short_name(row.from_tag),
        to_model=short_name(row.to_tag),
        profile=spec.profile,
        strategy=row.strategy,
        strategy_asked=row.strategy_asked,
        strategy_reason=row.strategy_reason,
        actor=row.actor,
        source=row.source,
        came_from=came_from(row.source, row.origin.ip if row.origin else None),
        reason=row.reason,
        began_at=row.created_at,
        ended_at=row.ended_at,
        now=now,
        expected_s=plan.get("expected_s"),
        sample=_sample(plan),
        rail=rail(c),
        timeline=timeline(c, now),
        stopped_in=_stopped_in(c),
        without_model_s=without_model_s(c),
        outcome=row.outcome,
        error=row.error,
        error_code=row.error_code,
        restored=row.restored,
        warnings=tuple(row.warnings),
        degraded=row.degraded,
        seen_by=seen.by if seen is not None else "",
        cancel_asked_by=row.cancel_asked_by,
        plan_token=row.plan_token,
        figures=row.figures,
        differences=_differences(row, spec, before, after),
        before_bar=bars[0],
        after_bar=bars[1],
        record=_record(row),
    )


def _stopped_in(c: Course) -> str:
    key = failed_phase(c)
    return WORDS[State(key)] if key else ""


def _sample(plan: dict[str, Any]) -> str:
    """From what the expected seconds of the load are known."""
    load = (plan.get("expected") or {}).get(State.LOADING.value)
    return load["source"] if load else ""


def _residents(rows: list[dict[str, Any]] | None) -> tuple[Resident, ...] | None:
    return None if rows is None else tuple(Resident.from_json(r) for r in rows)


def _bars(
    row: SwitchEvent, before: tuple[Resident, ...] | None, after: tuple[Resident, ...] | None
) -> tuple[Bar | None, Bar | None]:
    if before is None:
        return None, None
    total = (row.plan or {}).get("vram_bytes") or row.host.vram_bytes
    new = row.to_digest if row.state == State.ACTIVE.value else row.from_digest
    return record_bars(before, after, (row.from_digest, new), total)


def _differences(
    row: SwitchEvent,
    spec: Spec,
    before: tuple[Resident, ...] | None,
    after: tuple[Resident, ...] | None,
) -> tuple[Difference, ...]:
    """Before and after, both read from the host. Empty until there is an after."""
    if before is None or after is None:
        return ()
    won = row.state == State.ACTIVE.value
    old = _side(row.from_tag, row.from_digest, row.from_spec, before)
    new = (
        _side(row.to_tag, row.to_digest, spec.to_json(), after)
        if won
        else _side(row.from_tag, row.from_digest, row.from_spec, after)
    )
    labels = (
        "Active model",
        "Digest",
        "Also resident",
        "On GPU",
        "Context",
        "Keep-alive",
        "Memory",
    )
    return tuple(
        Difference(label, a, b, label in labels[:3])
        for label, a, b in zip(labels, old, new, strict=True)
    )


def _side(
    tag: str, digest: str, spec: dict[str, Any] | None, resident: tuple[Resident, ...]
) -> tuple[str, ...]:
    here = next((r for r in resident if digest and r.digest == digest), None)
    others = ", ".join(short_name(r.name) for r in resident if r is not here)
    used = sum(bytes_of(r) for r in resident)
    return (
        (short_name(tag) if here else f"{short_name(tag)} (not loaded)") if tag else "none",
        digest[:12] or "–",
        others or "none",
        f"{here.gpu_percent}{NBSP}%" if here else "–",
        f"{here.context_length:,}" if here and here.context_length else "–",
        keep_alive_words(spec["keep_alive"]) if spec else "–",
        f"{gb(used)}{NBSP}GB",
    )


def _record(row: SwitchEvent) -> dict[str, Any]:
    """The stored facts, for who wants to read them as they are."""
    names = (
        "state", "actor", "source", "reason", "from_tag", "from_digest", "to_tag", "to_digest",
        "strategy_asked", "strategy", "strategy_reason", "plan_token", "phases", "figures",
        "before", "after", "error_code", "error", "outcome", "restored", "warnings", "degraded",
        "created_at", "started_at", "ended_at",
    )  # fmt: skip
    return {"id": row.pk, "host": row.host.name} | {n: getattr(row, n) for n in names}
