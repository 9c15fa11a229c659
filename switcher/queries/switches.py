"""Switches as recorded: summaries for lists, and details."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet

from switcher.domain.errors import NotFound
from switcher.domain.observed import Resident
from switcher.domain.states import ENDED, OPEN, State
from switcher.models import SwitchEvent
from switcher.queries.from_rows import from_row, newest_first

PAGE_SIZE = 50
MAX_CHOICES = 200

OUTCOMES: dict[str, tuple[State, ...]] = {
    "active": (State.ACTIVE,),
    "failed": (State.FAILED, State.ROLLED_BACK),
    "cancelled": (State.CANCELLED,),
    "open": tuple(s for s in State if s not in ENDED),
}
# Large columns that only the details need.
_DETAILS = ("plan", "phases", "before", "after", "figures", "from_spec")


@dataclass(frozen=True, slots=True)
class SwitchSummary:
    """A switch in a list. `strategy` is the chosen one; until then, the requested one."""

    id: int
    host_id: int
    host: str
    host_removed: bool
    simulated: bool
    state: State
    model: str
    profile: str
    previous_model: str
    strategy: str
    actor: str
    source: str
    ip: str | None
    reason: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    outcome: str
    error_code: str
    error: str
    restored: str
    degraded: bool
    warnings: tuple[str, ...]

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def is_open(self) -> bool:
        return not self.ended

    @property
    def duration_s(self) -> float | None:
        """Return the seconds from the request to the end; None until then."""
        if self.ended_at is None:
            return None
        return round((self.ended_at - self.created_at).total_seconds(), 3)


@dataclass(frozen=True, slots=True)
class RecordedPhase:
    """A phase that a switch entered. `seconds` is None while it lasts; `expected_s` is what the
    plan expected."""

    state: State
    at: datetime
    seconds: float | None
    note: str
    expected_s: float | None

    @property
    def ended_at(self) -> datetime | None:
        return None if self.seconds is None else self.at + timedelta(seconds=self.seconds)


@dataclass(frozen=True, slots=True)
class SwitchDetail(SwitchSummary):
    """A switch with everything that is recorded about it, and the total memory of its host."""

    digest: str
    previous_digest: str
    keep_alive: str
    previous_keep_alive: str
    strategy_asked: str
    strategy_reason: str
    plan_token: str
    plan: Mapping[str, Any] | None
    phases: tuple[RecordedPhase, ...]
    before: tuple[Resident, ...] | None
    after: tuple[Resident, ...] | None
    figures: Mapping[str, Any]
    cancel_asked_by: str
    seen_by: str
    vram_bytes: int | None

    @property
    def already_active(self) -> bool:
        return bool(self.figures.get("already_active"))

    @property
    def loaded_nothing(self) -> str:
        """Return why the switch loaded no model although it made one active; empty if it did."""
        if self.figures.get("was_loaded"):
            return "it was in memory already"
        is_cloud = bool(self.plan and self.plan.get("cloud"))
        return "it is a cloud model" if is_cloud else ""

    @property
    def restoring(self) -> bool:
        return self.state is State.RESTORING

    @property
    def can_cancel(self) -> bool:
        """Return whether it is open, not cancelled yet, and not restoring."""
        return self.is_open and not self.cancel_asked_by and not self.restoring

    @property
    def nothing_touched(self) -> bool:
        """Return whether it ended before anything on the host was changed."""
        restored = any(phase.state is State.RESTORING for phase in self.phases)
        return self.ended and not self.degraded and not restored

    @property
    def needs_attention(self) -> bool:
        """Return whether it failed and nobody has marked it as seen."""
        return self.state in OUTCOMES["failed"] and not self.seen_by

    @property
    def expected_s(self) -> float | None:
        """Return the seconds that the plan expected it to take."""
        return (self.plan or {}).get("expected_s")

    def expected_phase_s(self, state: State) -> float | None:
        """Return the seconds that the plan expected a phase to take."""
        return _expected(self.plan).get(state.value, {}).get("seconds")

    @property
    def expected_source(self) -> str:
        """Return where the expected seconds of the load come from."""
        return str(_expected(self.plan).get(State.LOADING.value, {}).get("source", ""))


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of a list; empty means any. `host`, `who` and `model` are exact; `host` also
    finds switches of removed hosts of that name.
    """

    host_id: int | None = None
    host: str = ""
    model: str = ""
    who: str = ""
    outcome: str = ""
    states: tuple[State, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""

    @property
    def active(self) -> bool:
        return self != Filters()


@dataclass(frozen=True, slots=True)
class SwitchPage:
    """A page of switches, newest first. `older` and `newer` are ids to page from, or None."""

    rows: tuple[SwitchSummary, ...]
    total: int
    all_total: int
    newest_id: int
    older: int | None
    newer: int | None
    hosts: tuple[str, ...]
    people: tuple[str, ...]
    models: tuple[str, ...]


def switch_detail(switch_id: int) -> SwitchDetail:
    """Return one switch, in one query. Raises NotFound."""
    found = switch_details(Q(pk=switch_id))
    if not found:
        raise NotFound(f"There is no switch {switch_id}.")
    return found[0]


def open_switch_on(host: str) -> SwitchDetail | None:
    """Return the open switch of a host, if it has one."""
    where = Q(host__name=host, host__removed_at=None, state__in=OPEN)
    return next(iter(switch_details(where)), None)


def switch_details(where: Q) -> list[SwitchDetail]:
    """Return switches in full, newest first, in one query."""
    rows = SwitchEvent.objects.select_related("host", "origin", "seen").filter(where)
    return [_detail(row) for row in rows.order_by("-id")]


def switches(
    filters: Filters, limit: int = PAGE_SIZE, before: int | None = None, after: int | None = None
) -> list[SwitchSummary]:
    """Return one page of switches, newest first: older than `before`, or newer than `after`."""
    return _page(_matching(filters), limit, before, after)


def switch_page(
    filters: Filters, before: int | None = None, after: int | None = None
) -> SwitchPage:
    """Return one page of switches, with the filter choices and the ids to page from."""
    matching = _matching(filters)
    rows = _page(matching, PAGE_SIZE, before, after)
    ids = [row.id for row in rows]
    newest = SwitchEvent.objects.order_by("-id").values_list("id", flat=True).first() or 0
    return SwitchPage(
        rows=tuple(rows),
        total=matching.count(),
        all_total=SwitchEvent.objects.count(),
        newest_id=newest,
        older=min(ids) if ids and matching.filter(pk__lt=min(ids)).exists() else None,
        newer=max(ids) if ids and matching.filter(pk__gt=max(ids)).exists() else None,
        hosts=_distinct("host__name"),
        people=_distinct("actor"),
        models=_distinct("to_tag"),
    )


def neighbours(switch_id: int, host_id: int) -> tuple[int | None, int | None]:
    """Return the ids of the switches before and after it on the same host."""
    rows = SwitchEvent.objects.filter(host_id=host_id).only("id")
    earlier = newest_first(rows, 1, before=switch_id)
    later = newest_first(rows, 1, after=switch_id)
    return (earlier[0].pk if earlier else None), (later[0].pk if later else None)


def _page(
    matching: QuerySet[SwitchEvent], limit: int, before: int | None, after: int | None
) -> list[SwitchSummary]:
    matching = matching.select_related("host", "origin").defer(*_DETAILS)
    rows = newest_first(matching, limit, before, after)
    return [from_row(SwitchSummary, row, **_summary(row)) for row in rows]


def _matching(f: Filters) -> QuerySet[SwitchEvent]:
    where = Q()
    if f.host_id is not None:
        where &= Q(host_id=f.host_id)
    if f.host:
        # PostgreSQL refuses NUL, and no driver can encode a lone surrogate.
        where &= Q(host__name=f.host) if f.host.isprintable() else Q(pk__in=())
    if f.who:
        where &= Q(actor=f.who)
    if f.model:
        where &= Q(to_tag=f.model) | Q(from_tag=f.model)
    if states := f.states or OUTCOMES.get(f.outcome):
        where &= Q(state__in=states)
    if f.since:
        where &= Q(created_at__gte=f.since)
    if f.until:
        where &= Q(created_at__lte=f.until)
    if f.text:
        where &= Q(reason__icontains=f.text) | Q(to_tag__icontains=f.text)
    return SwitchEvent.objects.filter(where)


def _distinct(field: str) -> tuple[str, ...]:
    values = SwitchEvent.objects.order_by(field).values_list(field, flat=True).distinct()
    return tuple(values[:MAX_CHOICES])


def _summary(row: SwitchEvent) -> dict[str, Any]:
    """Return the values of a summary that are not in a column of the same name."""
    return {
        "host": row.host.name,
        "host_removed": row.host.removed_at is not None,
        "simulated": row.host.simulated,
        "state": State(row.state),
        "model": row.to_tag,
        "profile": str(row.to_spec.get("profile", "")),
        "previous_model": row.from_tag,
        "strategy": row.strategy or row.strategy_asked,
        "ip": row.origin.ip if row.origin else None,
        "warnings": tuple(row.warnings),
    }


def _detail(row: SwitchEvent) -> SwitchDetail:
    seen = getattr(row, "seen", None)
    return from_row(
        SwitchDetail,
        row,
        **_summary(row),
        digest=row.to_digest,
        previous_digest=row.from_digest,
        keep_alive=row.to_spec.get("keep_alive", ""),
        previous_keep_alive=(row.from_spec or {}).get("keep_alive", ""),
        phases=tuple(_phase(phase, row.plan) for phase in row.phases),
        before=_residents(row.before),
        after=_residents(row.after),
        seen_by=seen.by if seen is not None else "",
        vram_bytes=row.host.vram_bytes,
    )


def _phase(phase: Mapping[str, Any], plan: Mapping[str, Any] | None) -> RecordedPhase:
    return RecordedPhase(
        state=State(phase["phase"]),
        at=datetime.fromisoformat(phase["at"]),
        seconds=phase["seconds"],
        note=phase.get("note", ""),
        expected_s=_expected(plan).get(phase["phase"], {}).get("seconds"),
    )


def _expected(plan: Mapping[str, Any] | None) -> Mapping[str, Mapping[str, Any]]:
    """Return what a plan expected for each phase: `seconds`, and the `source` of that number."""
    return (plan or {}).get("expected") or {}


def _residents(rows: list[dict[str, Any]] | None) -> tuple[Resident, ...] | None:
    return None if rows is None else tuple(Resident.from_json(r) for r in rows)
