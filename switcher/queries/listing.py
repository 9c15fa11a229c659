"""Switches as lines: the events of the board, and the list that can be filtered and paged."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import groupby
from typing import Any

from django.db.models import Q, QuerySet

from switcher.domain.observed import short_name
from switcher.domain.states import ENDED, WORDS, State
from switcher.domain.wording import came_from
from switcher.models import SwitchEvent

PAGE = 50

OUTCOMES: dict[str, tuple[State, ...]] = {
    "active": (State.ACTIVE,),
    "failed": (State.FAILED, State.ROLLED_BACK),
    "cancelled": (State.CANCELLED,),
    "open": tuple(s for s in State if s not in ENDED),
}


@dataclass(frozen=True, slots=True)
class ListedSwitch:
    """One switch in a line. `look` is busy, ok, failed or none."""

    id: int
    host: str
    simulated: bool
    state: str
    look: str
    end_words: str
    from_model: str
    to_model: str
    actor: str
    came_from: str
    reason: str
    began_at: datetime
    ended_at: datetime | None
    now: datetime
    restored: bool
    degraded: bool
    error_code: str

    @property
    def took_s(self) -> float:
        return ((self.ended_at or self.now) - self.began_at) / timedelta(seconds=1)

    @property
    def at(self) -> datetime:
        """The time of its last news."""
        return self.ended_at or self.began_at

    @property
    def is_open(self) -> bool:
        return self.ended_at is None

    @property
    def old_stays(self) -> str:
        """The old model, where it is active after a switch that did not succeed."""
        return self.from_model if self.look in ("failed", "none") and not self.degraded else ""


@dataclass(frozen=True, slots=True)
class Filters:
    """What the list is narrowed to; empty means any. `host`, `who` and `model` are exact."""

    host: str = ""
    model: str = ""
    who: str = ""
    outcome: str = ""
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""

    @property
    def active(self) -> bool:
        return self != Filters()


@dataclass(frozen=True, slots=True)
class Day:
    date: date
    rows: tuple[ListedSwitch, ...]


@dataclass(frozen=True, slots=True)
class SwitchPage:
    """At most PAGE switches, newest first. `older` and `newer` are ids to page from, or None."""

    rows: tuple[ListedSwitch, ...]
    days: tuple[Day, ...]
    total: int
    all_total: int
    newest_id: int
    older: int | None
    newer: int | None
    hosts: tuple[str, ...]
    people: tuple[str, ...]
    models: tuple[str, ...]


LINE_FIELDS = (
    "id", "host__name", "host__simulated", "state", "from_tag", "to_tag", "actor", "source",
    "origin__ip", "reason", "created_at", "ended_at", "restored", "degraded", "error_code",
)  # fmt: skip


def switch_list(
    filters: Filters,
    before_id: int | None = None,
    after_id: int | None = None,
    now: datetime | None = None,
) -> SwitchPage:
    """One page of switches. `before_id` pages to older ones, `after_id` back to newer ones."""
    matching = SwitchEvent.objects.filter(_where(filters))
    rows = _page(matching, before_id, after_id, now or datetime.now(UTC))
    ids = [r.id for r in rows]
    newest = SwitchEvent.objects.order_by("-id").values_list("id", flat=True).first() or 0
    return SwitchPage(
        rows=rows,
        days=_days(rows),
        total=matching.count(),
        all_total=SwitchEvent.objects.count(),
        newest_id=newest,
        older=min(ids) if ids and matching.filter(pk__lt=min(ids)).exists() else None,
        newer=max(ids) if ids and matching.filter(pk__gt=max(ids)).exists() else None,
        hosts=_distinct("host__name"),
        people=_distinct("actor"),
        models=_distinct("to_tag"),
    )


def line_of(row: dict[str, Any], now: datetime) -> ListedSwitch:
    """A line from the values of LINE_FIELDS."""
    state = State(row["state"])
    return ListedSwitch(
        id=row["id"],
        host=row["host__name"],
        simulated=row["host__simulated"],
        state=row["state"],
        look=look(state),
        end_words=_end_words(state, row),
        from_model=short_name(row["from_tag"]),
        to_model=short_name(row["to_tag"]),
        actor=row["actor"],
        came_from=came_from(row["source"], row["origin__ip"]),
        reason=row["reason"],
        began_at=row["created_at"],
        ended_at=row["ended_at"],
        now=now,
        restored=bool(row["restored"]),
        degraded=row["degraded"],
        error_code=row["error_code"],
    )


def look(state: State) -> str:
    """How a state looks in a line: busy, ok, failed or none."""
    if state not in ENDED:
        return "busy"
    if state is State.ACTIVE:
        return "ok"
    return "none" if state is State.CANCELLED else "failed"


def _end_words(state: State, row: dict[str, Any]) -> str:
    if row["degraded"]:
        return "Active, then lost" if state is State.ACTIVE else "Failed, not restored"
    if state is State.ROLLED_BACK:
        return "Failed, restored"
    if state is State.FAILED:
        return "Failed, nothing touched"
    return WORDS[state]


def _where(f: Filters) -> Q:
    where = Q()
    if f.host:
        where &= Q(host__name=f.host)
    if f.who:
        where &= Q(actor=f.who)
    if f.model:
        where &= Q(to_tag=f.model) | Q(from_tag=f.model)
    if f.outcome in OUTCOMES:
        where &= Q(state__in=[s.value for s in OUTCOMES[f.outcome]])
    if f.since:
        where &= Q(created_at__gte=f.since)
    if f.until:
        where &= Q(created_at__lte=f.until)
    if f.text:
        where &= Q(reason__icontains=f.text) | Q(to_tag__icontains=f.text)
    return where


def _page(
    matching: QuerySet[SwitchEvent], before_id: int | None, after_id: int | None, now: datetime
) -> tuple[ListedSwitch, ...]:
    """By key, not by offset: a new switch moves nothing from one page to the next."""
    if after_id is not None:
        rows = list(matching.filter(pk__gt=after_id).order_by("id").values(*LINE_FIELDS)[:PAGE])
        rows.reverse()
    else:
        older = matching.filter(pk__lt=before_id) if before_id is not None else matching
        rows = list(older.order_by("-id").values(*LINE_FIELDS)[:PAGE])
    return tuple(line_of(r, now) for r in rows)


def _days(rows: tuple[ListedSwitch, ...]) -> tuple[Day, ...]:
    days = groupby(rows, key=lambda r: r.began_at.astimezone(UTC).date())
    return tuple(Day(day, tuple(lines)) for day, lines in days)


def _distinct(field: str) -> tuple[str, ...]:
    return tuple(SwitchEvent.objects.order_by(field).values_list(field, flat=True).distinct()[:200])
