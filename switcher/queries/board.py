"""The board: everything on it in four queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q

from switcher.domain.observed import Observation, full_name, short_name
from switcher.models import ModelProfile, SwitchEvent
from switcher.queries.drifts import open_by_host
from switcher.queries.hosts import OPEN_STATES, host_queryset, known_by_host, pins_of
from switcher.queries.hoststates import HostRow, row_of
from switcher.queries.listing import ListedSwitch, line_of
from switcher.queries.switches import SwitchView, rows_with_all, view_of

EVENTS = 6
# A switch that has just ended stays on the board this long: its watchers see how it went.
SHOW_ENDED_S = 60.0

EventRow = ListedSwitch


@dataclass(frozen=True, slots=True)
class Choice:
    """A model to switch to. `value` is a profile's name, or `=` and a model without one."""

    value: str
    label: str
    model: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The facts of the sentence at the top."""

    hosts: int
    answering: int
    running: int
    look_at: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """What the board shows. `panels` is what `#switches` shows: open ones, newest first, then
    those that have just ended."""

    now: datetime
    hosts: tuple[HostRow, ...]
    open_switches: tuple[SwitchView, ...]
    ended_switches: tuple[SwitchView, ...]
    events: tuple[EventRow, ...]
    profiles: tuple[Choice, ...]
    models: tuple[Choice, ...]
    # What is wrong with the audit trail, its key or its sinks, in sentences.
    alarms: tuple[str, ...] = ()

    @property
    def panels(self) -> tuple[SwitchView, ...]:
        return (*self.open_switches, *self.ended_switches)

    @property
    def summary(self) -> Summary:
        return Summary(
            hosts=len(self.hosts),
            answering=sum(h.answers for h in self.hosts),
            running=len(self.open_switches),
            look_at=tuple(h.name for h in self.hosts if h.needs_a_look),
        )


def board(
    now: datetime,
    fresh: Mapping[int, Observation] | None = None,
    alarms: tuple[str, ...] = (),
) -> Board:
    """The board as it is. `fresh` are this process's newest readings by host id; where the
    stored one is newer, that is used. `alarms` are told beside it."""
    hosts = list(host_queryset())
    profiles, pins = _profiles()
    views = {r.pk: view_of(r, now) for r in _switches(hosts)}
    running = {v.host_id: v for v in views.values() if v.is_open}
    ended = {h.pk: views.get(h.last_ended) for h in hosts}
    known = known_by_host(hosts, fresh)
    installed = {i.name for k in known.values() for i in k.installed}
    drifts = open_by_host(h.pk for h in hosts)
    newest = sorted(views.values(), key=lambda v: -v.id)
    return Board(
        now=now,
        hosts=tuple(
            row_of(
                h,
                known[h.pk],
                running.get(h.pk),
                ended[h.pk],
                pins.get(h.pk),
                now,
                drifts.get(h.pk, ()),
            )
            for h in hosts
        ),
        open_switches=tuple(v for v in newest if v.is_open),
        ended_switches=tuple(v for v in newest if _just_ended(v, ended.values(), running)),
        events=tuple(line_of(_line(v), now) for v in newest[:EVENTS]),
        profiles=_choices(profiles),
        models=_without_profile(installed, {full_name(tag) for _, tag in profiles}),
        alarms=alarms,
    )


def _profiles() -> tuple[list[tuple[str, str]], dict[int, frozenset[str]]]:
    """Profiles and what is pinned where, in one query."""
    rows: list[tuple[str, str, int | None]] = list(
        ModelProfile.objects.values_list("name", "tag", "pin__host_id")
    )
    return list(dict.fromkeys((n, t) for n, t, _ in rows)), pins_of(
        (host_id, tag) for _, tag, host_id in rows if host_id is not None
    )


def _switches(hosts: Iterable[Any]) -> Any:
    """The open ones, the last that ended on each host, and the newest of all: in one query."""
    newest = SwitchEvent.objects.order_by("-id").values("id")[:EVENTS]
    last = [h.last_ended for h in hosts if h.last_ended]
    return rows_with_all().filter(Q(state__in=OPEN_STATES) | Q(pk__in=last) | Q(pk__in=newest))


def _just_ended(
    view: SwitchView, last: Iterable[SwitchView | None], running: Mapping[int, SwitchView]
) -> bool:
    """The last one of a host that does nothing now, for a while after its end."""
    if view.ended_at is None or view.host_id in running or view not in last:
        return False
    return view.now - view.ended_at < timedelta(seconds=SHOW_ENDED_S)


def _line(view: SwitchView) -> dict[str, Any]:
    return {
        "id": view.id,
        "host__name": view.host,
        "host__simulated": view.simulated,
        "state": view.state,
        "from_tag": view.from_model,
        "to_tag": view.to_model,
        "actor": view.actor,
        "source": view.source,
        "origin__ip": None,
        "reason": view.reason,
        "created_at": view.began_at,
        "ended_at": view.ended_at,
        "restored": view.restored,
        "degraded": view.degraded,
        "error_code": view.error_code,
    }


def _choices(profiles: list[tuple[str, str]]) -> tuple[Choice, ...]:
    """By their models; where several profiles are of one model, the profile is named too."""
    counts = Counter(full_name(tag) for _, tag in profiles)
    return tuple(
        Choice(
            name,
            short_name(tag) if counts[full_name(tag)] == 1 else f"{short_name(tag)} · {name}",
            short_name(tag),
        )
        for name, tag in profiles
    )


def _without_profile(installed: set[str], known: set[str]) -> tuple[Choice, ...]:
    names = sorted(short_name(n) for n in installed - known)
    return tuple(Choice(f"={n}", n, n) for n in names)


def slug_of(model: str) -> str:
    """The profile name that a model suggests: `qwen2.5:14b` gives `qwen2-5-14b`."""
    return "".join(c if c.isalnum() else "-" for c in model.lower()).strip("-")
