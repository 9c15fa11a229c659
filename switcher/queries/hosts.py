"""Hosts as they are shown: what `/api/ps` lists before what should be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery

from switcher.domain.drift import GHOST_AFTER_S
from switcher.domain.observed import Installed, Observation, full_name, short_name
from switcher.domain.published_name import PublishedName
from switcher.domain.states import OPEN, State
from switcher.domain.wording import keep_alive_words
from switcher.models import Host, ModelProfile, Pin, SwitchEvent
from switcher.queries.drifts import DriftRow, open_by_host, recent_drifts
from switcher.queries.hoststates import (
    HostRow,
    Known,
    Pins,
    ResidentRow,
    as_models,
    known_of,
    row_of,
)
from switcher.queries.listing import LINE_FIELDS, ListedSwitch, line_of
from switcher.queries.model_copies import tags_by_host
from switcher.queries.switches import SwitchView, rows_with_all, view_of

__all__ = ["GHOST_AFTER_S", "HostPage", "HostRow", "ResidentRow", "host_page", "host_rows"]

OPEN_STATES = sorted(s.value for s in OPEN)
EVENTS = 6


@dataclass(frozen=True, slots=True)
class HostProfile:
    """A profile seen from one host."""

    name: str
    model: str
    state: str  # active, resident, idle, missing
    word: str
    size: int | None
    keep_alive: str
    load_s: float | None


@dataclass(frozen=True, slots=True)
class HostPage:
    """All that a host's own page shows beside its row."""

    row: HostRow
    base_url: str
    strategy: str
    keep_alive: str
    active_profile: str
    active_since: datetime | None
    installed: tuple[Installed, ...]
    profiles: tuple[HostProfile, ...]
    pinned: tuple[str, ...]
    switches: tuple[SwitchView, ...]
    events: tuple[ListedSwitch, ...]
    drifts: tuple[DriftRow, ...]  # open ones first
    drift_policy: str
    repairs_an_hour: int
    gateway_policy: str
    published: PublishedName


@dataclass(frozen=True, slots=True)
class HostValues:
    """A host's settings as plain values, for a form."""

    id: int
    name: str
    base_url: str
    vram_bytes: int | None
    simulated: bool
    is_default: bool
    strategy: str
    keep_alive: str
    pinned: tuple[str, ...]
    drift_policy: str
    repairs_an_hour: int
    published_name: str


def host_queryset() -> QuerySet[Any]:
    """Hosts on the board, in their one fixed order, with the id of each one's last ended switch."""
    last = SwitchEvent.objects.filter(host=OuterRef("pk"), ended_at__isnull=False).order_by("-id")
    return (
        Host.objects.filter(removed_at=None)
        .select_related("reading", "active_profile")
        .annotate(last_ended=Subquery(last.values("id")[:1]))
        .order_by("id")
    )


def switches_of(hosts: Iterable[Any], now: datetime) -> tuple[dict[int, SwitchView], ...]:
    """By host id: the open switch, and the last one that ended. One query."""
    ids = [h.pk for h in hosts]
    last = [h.last_ended for h in hosts if h.last_ended]
    rows = list(rows_with_all().filter(host_id__in=ids, state__in=OPEN_STATES))
    rows += list(rows_with_all().filter(pk__in=last)) if last else []
    views = [view_of(r, now) for r in rows]
    running = {v.host_id: v for v in views if v.is_open}
    return running, {v.host_id: v for v in views if not v.is_open}


def known_by_host(
    hosts: Iterable[Any], fresh: Mapping[int, Observation] | None
) -> dict[int, Known]:
    """What is known of each, by the names of models. No query, but where a copy is resident."""
    rows = list(hosts)
    known = {h.pk: known_of(h, fresh) for h in rows}
    tags = tags_by_host({host_id: k.resident for host_id, k in known.items()})
    return {h.pk: as_models(h, known[h.pk], tags.get(h.pk, {})) for h in rows}


def host_rows(now: datetime, fresh: Mapping[int, Observation] | None = None) -> tuple[HostRow, ...]:
    """Every host as a row."""
    hosts = list(host_queryset())
    running, ended = switches_of(hosts, now)
    pins = pins_of(Pin.objects.values_list("host_id", "profile__tag"))
    drifts = open_by_host(h.pk for h in hosts)
    known = known_by_host(hosts, fresh)
    return tuple(
        row_of(
            h,
            known[h.pk],
            running.get(h.pk),
            ended.get(h.pk),
            pins.get(h.pk),
            now,
            drifts.get(h.pk, ()),
        )
        for h in hosts
    )


def pins_of(rows: Iterable[tuple[int, str]]) -> dict[int, Pins]:
    """By host id: the full names of what is kept resident there on purpose."""
    pins: dict[int, set[str]] = {}
    for host_id, tag in rows:
        pins.setdefault(host_id, set()).add(full_name(tag))
    return {host_id: frozenset(names) for host_id, names in pins.items()}


def host_page(
    name: str, now: datetime, fresh: Mapping[int, Observation] | None = None
) -> HostPage | None:
    """One host; None if there is none of this name."""
    host = host_queryset().filter(name=name).first()
    if host is None:
        return None
    running, ended = switches_of([host], now)
    known = known_by_host([host], fresh)[host.pk]
    profiles = list(ModelProfile.objects.all())
    pinned = set(host.pinned.values_list("name", flat=True))
    pins = frozenset(full_name(p.tag) for p in profiles if p.name in pinned)
    drifts = open_by_host([host.pk]).get(host.pk, ())
    row = row_of(host, known, running.get(host.pk), ended.get(host.pk), pins, now, drifts)
    return HostPage(
        row=row,
        base_url=host.base_url,
        strategy=host.strategy,
        keep_alive=keep_alive_words(host.keep_alive),
        active_profile=host.active_profile.name if host.active_profile else "",
        active_since=host.active_since,
        installed=known.installed,
        profiles=tuple(_profile(p, host, known) for p in profiles),
        pinned=tuple(sorted(pinned)),
        switches=tuple(running.values()),
        events=_events(host.pk, now),
        drifts=recent_drifts(host.pk),
        drift_policy=host.drift_policy,
        repairs_an_hour=host.repairs_an_hour,
        gateway_policy=host.gateway_policy,
        published=PublishedName.of(host),
    )


def host_values(name: str) -> HostValues | None:
    """A host's settings; None if there is none of this name."""
    host = Host.objects.filter(name=name, removed_at=None).first()
    if host is None:
        return None
    return HostValues(
        id=host.pk,
        name=host.name,
        base_url=host.base_url,
        vram_bytes=host.vram_bytes,
        simulated=host.simulated,
        is_default=host.is_default,
        strategy=host.strategy,
        keep_alive=host.keep_alive,
        pinned=tuple(host.pinned.values_list("name", flat=True)),
        drift_policy=host.drift_policy,
        repairs_an_hour=host.repairs_an_hour,
        published_name=host.published_name,
    )


def _events(host_id: int, now: datetime) -> tuple[ListedSwitch, ...]:
    rows = SwitchEvent.objects.filter(host_id=host_id).order_by("-id").values(*LINE_FIELDS)
    return tuple(line_of(r, now) for r in rows[:EVENTS])


def _profile(profile: ModelProfile, host: Any, known: Known) -> HostProfile:
    name = full_name(profile.tag)
    on_disk = next((i for i in known.installed if i.name == name), None)
    state, word = _profile_state(profile, host, known, on_disk)
    return HostProfile(
        name=profile.name,
        model=short_name(profile.tag),
        state=state,
        word=word,
        size=on_disk.size if on_disk else None,
        keep_alive=keep_alive_words(profile.keep_alive),
        load_s=_last_load(host.pk, on_disk.digest) if on_disk else None,
    )


def _profile_state(
    profile: ModelProfile, host: Any, known: Known, on_disk: Installed | None
) -> tuple[str, str]:
    if on_disk is None:
        return "none", "Not on this host" if known.installed else "Not known"
    here = any(r.digest == on_disk.digest for r in known.resident)
    if host.active_profile_id == profile.pk and host.active_digest == on_disk.digest:
        return ("active", "Active") if here else ("idle", "Active, not loaded")
    return ("active", "Loaded") if here else ("idle", "Not loaded")


def _last_load(host_id: int, digest: str) -> float | None:
    """Seconds that loading it took here the last time, as its phase was measured."""
    rows = SwitchEvent.objects.filter(host_id=host_id, to_digest=digest, state="active")
    phases = rows.order_by("-id").values_list("phases", flat=True).first() or []
    return next((p["seconds"] for p in phases if p["phase"] == State.LOADING.value), None)
