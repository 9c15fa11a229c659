"""Hosts: their settings, and what they were last seen to hold; and everything on the board."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from django.db.models import Max, OuterRef, Q, QuerySet, Subquery

from switcher.domain.drift import OpenDrift
from switcher.domain.errors import NotFound
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Observation
from switcher.domain.published_name import PublishedName
from switcher.domain.servers import Server
from switcher.domain.specs import Spec
from switcher.domain.states import OPEN, State
from switcher.models import Host, ModelProfile, Pin, SwitchEvent
from switcher.queries.drifts import open_by_host
from switcher.queries.from_rows import from_row, grouped
from switcher.queries.readings import LatestReading, latest_readings
from switcher.queries.switches import SwitchDetail, switch_details

Named = TypeVar("Named", Host, ModelProfile)
RECENT_SWITCHES = 6
# Names and tags of pinned profiles, by host id.
Pins = Mapping[int, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """The active model of a host, as recorded. Only a reading can tell whether it is loaded."""

    model: str
    digest: str
    profile: str
    since: datetime | None
    spec: Spec

    @property
    def name(self) -> ModelName:
        return ModelName.parse(self.model)


@dataclass(frozen=True, slots=True)
class HostSettings:
    """The settings of a host, its active model, and its open switch. `pinned` are names of
    profiles; `degraded` is the reason if it does not hold the active model.
    """

    id: int
    name: str
    base_url: str
    server: Server
    vram_bytes: int | None
    simulated: bool
    is_default: bool
    strategy: str
    keep_alive: str
    drift_policy: str
    repairs_an_hour: int
    gateway_policy: str
    allows_cloud: bool
    max_loaded: int | None  # as set
    parallel_requests: int | None  # as set
    mac_address: str  # for Wake-on-LAN
    learned_max_loaded: int | None  # as learned from evictions
    published: PublishedName
    active: ActiveModel | None
    degraded: str
    pinned: tuple[str, ...]
    open_switch: int | None


@dataclass(frozen=True, slots=True)
class HostDetail(HostSettings):
    """A host with its newest reading, its switches and its open drifts. `pinned_models` are full
    names; `last_ended` is the newest of the switches that have ended."""

    reading: LatestReading
    pinned_models: frozenset[ModelName]
    running: SwitchDetail | None
    last_ended: SwitchDetail | None
    drifts: tuple[OpenDrift, ...]


@dataclass(frozen=True, slots=True)
class BoardFacts:
    """The facts on the board. `switches` has the open ones, the last ended one of each host, and
    the most recent ones; the newest comes first. `profiles` are names with tags."""

    hosts: tuple[HostDetail, ...]
    switches: tuple[SwitchDetail, ...]
    profiles: tuple[tuple[str, str], ...]


def find_host(name: str = "") -> Host:
    """Return the row of a host by its name, or of the default one. Raises NotFound."""
    rows = Host.objects.filter(removed_at=None).select_related("active_profile")
    row = find_named(rows, name) if name else rows.filter(is_default=True).first()
    if row is None:
        raise NotFound(f"There is no host named {name!r}." if name else "There is no host yet.")
    return row


def find_named(rows: QuerySet[Named], name: str) -> Named | None:
    """Return the row of this name. Names that no database can store are not looked up: PostgreSQL
    rejects NUL, and no driver can encode a lone surrogate.
    """
    return rows.filter(name=name).first() if name.isprintable() else None


def hosts() -> list[HostSettings]:
    """Return all hosts that were not removed, in the order in which they were added."""
    rows = Host.objects.filter(removed_at=None).select_related("active_profile")
    running = dict(SwitchEvent.objects.filter(state__in=OPEN).values_list("host_id", "id"))
    pins = pins_by_host()
    return [
        from_row(HostSettings, row, **_settings(row, pins, running.get(row.pk))) for row in rows
    ]


def host(name: str = "") -> HostSettings:
    """Return one host by its name, or the default one. Raises NotFound."""
    row = find_host(name)
    running = SwitchEvent.objects.filter(host=row, state__in=OPEN).values_list("id", flat=True)
    return from_row(HostSettings, row, **_settings(row, pins_by_host(row.pk), running.first()))


def host_rows() -> QuerySet[Any]:
    """Return the rows of hosts with their `reading` and the id of their `last_ended` switch."""
    last = SwitchEvent.objects.filter(host=OuterRef("pk"), ended_at__isnull=False).order_by("-id")
    return (
        Host.objects.filter(removed_at=None)
        .select_related("reading", "active_profile")
        .annotate(last_ended=Subquery(last.values("id")[:1]))
        .order_by("id")
    )


def host_details(fresh: Mapping[int, Observation] | None = None) -> tuple[HostDetail, ...]:
    """Return every host. `fresh` are this process's own readings by host id, which are used if they
    are newer than the stored ones.
    """
    rows = list(host_rows())
    return details_of(rows, switch_details(Q(state__in=OPEN) | last_ended(rows)), fresh=fresh)


def host_detail(name: str, fresh: Mapping[int, Observation] | None = None) -> HostDetail:
    """Return one host by its name. Raises NotFound."""
    row = find_named(host_rows(), name)
    if row is None:
        raise NotFound(f"There is no host named {name!r}.")
    switches = switch_details(Q(host=row, state__in=OPEN) | last_ended([row]))
    return details_of([row], switches, pins_by_host(row.pk), fresh)[0]


def last_ended(rows: Iterable[Any]) -> Q:
    """Return a filter that matches the last ended switch of each of these hosts."""
    return Q(pk__in=[row.last_ended for row in rows if row.last_ended])


def pins_by_host(host_id: int | None = None) -> Pins:
    """Return what is pinned on each host, or on one."""
    rows = Pin.objects.all() if host_id is None else Pin.objects.filter(host_id=host_id)
    columns = rows.values_list("host_id", "profile__name", "profile__tag")
    return grouped((row_id, (name, tag)) for row_id, name, tag in columns)


def details_of(
    rows: list[Any],
    switches: Iterable[SwitchDetail],
    pins: Pins | None = None,
    fresh: Mapping[int, Observation] | None = None,
) -> tuple[HostDetail, ...]:
    """Build the details of hosts from their rows, their open switches and their last ended
    switches."""
    pins = pins_by_host() if pins is None else pins
    by_id = {switch.id: switch for switch in switches}
    running = {switch.host_id: switch for switch in by_id.values() if switch.is_open}
    readings, drifts = latest_readings(rows, fresh), open_by_host(row.pk for row in rows)
    return tuple(
        from_row(
            HostDetail,
            row,
            **_settings(row, pins, running[row.pk].id if row.pk in running else None),
            reading=readings[row.pk],
            pinned_models=frozenset(ModelName.parse(tag) for _, tag in pins.get(row.pk, ())),
            running=running.get(row.pk),
            last_ended=by_id.get(row.last_ended),
            drifts=drifts.get(row.pk, ()),
        )
        for row in rows
    )


def board_facts(fresh: Mapping[int, Observation] | None = None) -> BoardFacts:
    """Read the board in four queries. `fresh` are this process's own readings by host id."""
    rows = list(host_rows())
    profiles, pins = _profiles_and_pins()
    newest = SwitchEvent.objects.order_by("-id").values("id")[:RECENT_SWITCHES]
    switches = switch_details(Q(state__in=OPEN) | last_ended(rows) | Q(pk__in=newest))
    return BoardFacts(details_of(rows, switches, pins, fresh), tuple(switches), profiles)


def _profiles_and_pins() -> tuple[tuple[tuple[str, str], ...], Pins]:
    """Return all profiles, and which are pinned on which host, in one query."""
    rows = ModelProfile.objects.values_list("name", "tag", "pin__host_id")
    by_host = grouped((host_id, (name, tag)) for name, tag, host_id in rows)
    return tuple(dict.fromkeys((name, tag) for name, tag, _ in rows)), by_host


def last_load_s(host_id: int, digests: Iterable[str]) -> dict[str, float | None]:
    """Return, by digest, how many seconds the last load of each model took on a host."""
    loaded = SwitchEvent.objects.filter(
        host_id=host_id, to_digest__in=list(digests), state=State.ACTIVE.value
    )
    newest = loaded.order_by().values("to_digest").annotate(last=Max("id")).values("last")
    rows = SwitchEvent.objects.filter(pk__in=newest).values_list("to_digest", "phases")
    return {
        digest: next((p["seconds"] for p in phases if p["phase"] == State.LOADING.value), None)
        for digest, phases in rows
    }


def published_name(host_id: int) -> PublishedName:
    """Return the published name of a host as it is stored now. Raises Host.DoesNotExist."""
    return PublishedName.of(Host.objects.get(pk=host_id))


def active_of(row: Host) -> ActiveModel | None:
    """Return the active model of a host, as recorded, if there is one."""
    if not row.active_tag:
        return None
    spec = active_spec(row)
    return ActiveModel(
        model=row.active_tag,
        digest=row.active_digest,
        profile=row.active_profile.name if row.active_profile else spec.profile,
        since=row.active_since,
        spec=spec,
    )


def active_spec(row: Host) -> Spec:
    """Return how the active model of a host is loaded."""
    stored = row.active_spec
    return Spec.from_json(stored) if stored else Spec("", row.active_tag, row.keep_alive)


def _settings(row: Host, pins: Pins, open_switch: int | None) -> dict[str, Any]:
    """Return the settings that are not in a host's row."""
    return {
        "published": PublishedName.of(row),
        "active": active_of(row),
        "pinned": tuple(sorted(name for name, _ in pins.get(row.pk, ()))),
        "open_switch": open_switch,
    }
