"""What the JSON API, the gateway and the commands read: frozen facts, no rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from django.db.models import QuerySet

from switcher.domain.errors import NotFound
from switcher.domain.observed import Installed, Observation, Resident, full_name
from switcher.domain.specs import Spec
from switcher.domain.states import ENDED, OPEN, State
from switcher.models import Host, ModelProfile, Reading, SwitchEvent

Named = TypeVar("Named", Host, ModelProfile)
MAX_ROWS = 200
OPEN_STATES = sorted(s.value for s in OPEN)


@dataclass(frozen=True, slots=True)
class Active:
    """What a host is to serve, by the database. Whether it is loaded only the host can say."""

    model: str
    digest: str
    profile: str
    since: datetime | None
    degraded: str
    spec: Spec

    @property
    def name(self) -> str:
        return full_name(self.model)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """A host: what was set for it, what is active on it, which switch is open."""

    id: int
    name: str
    base_url: str
    vram_bytes: int | None
    simulated: bool
    is_default: bool
    strategy: str
    active: Active | None
    open_switch: int | None


@dataclass(frozen=True, slots=True)
class Switch:
    """One switch as its record tells it."""

    id: int
    host_id: int
    host: str
    state: State
    model: str
    digest: str
    profile: str
    previous_model: str
    previous_digest: str
    actor: str
    source: str
    reason: str
    strategy: str
    strategy_asked: str
    strategy_reason: str
    claimed: bool
    phases: tuple[Mapping[str, Any], ...]
    plan: Mapping[str, Any] | None
    before: tuple[Resident, ...] | None
    after: tuple[Resident, ...] | None
    figures: Mapping[str, Any]
    warnings: tuple[str, ...]
    error_code: str
    error: str
    outcome: str
    restored: str
    degraded: bool
    cancel_asked_by: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def already_active(self) -> bool:
        return bool(self.figures.get("already_active"))

    @property
    def duration_s(self) -> float | None:
        """Seconds from the request to the end."""
        if self.ended_at is None:
            return None
        return round((self.ended_at - self.created_at).total_seconds(), 3)

    def expected_s(self, phase: str) -> float | None:
        """Seconds that a phase usually takes, as the plan says."""
        expected = ((self.plan or {}).get("expected") or {}).get(phase)
        return expected["seconds"] if expected else None


def hosts() -> list[HostFacts]:
    """All hosts that were not removed, in the order they were added."""
    rows = list(Host.objects.filter(removed_at=None).select_related("active_profile"))
    running = dict(SwitchEvent.objects.filter(state__in=OPEN_STATES).values_list("host_id", "id"))
    return [_host(row, running.get(row.pk)) for row in rows]


def host(name: str = "") -> HostFacts:
    """One host by name, or the default one. Raises NotFound."""
    row = _find(name)
    running = SwitchEvent.objects.filter(host=row, state__in=OPEN_STATES)
    return _host(row, running.values_list("id", flat=True).first())


def last_reading(host_id: int) -> Observation | None:
    """What the host held when it last answered, with that time; None if it never did."""
    row = Reading.objects.filter(host_id=host_id).exclude(answered_at=None).first()
    if row is None or row.answered_at is None:
        return None
    return Observation(
        at=row.answered_at,
        resident=tuple(Resident.from_json(r) for r in row.resident),
        installed=tuple(Installed.from_json(r) for r in row.installed),
        version=row.version,
        latency_ms=row.latency_ms,
        error=row.error,
    )


def switch(switch_id: int) -> Switch:
    """One switch. Raises NotFound."""
    row = SwitchEvent.objects.select_related("host").filter(pk=switch_id).first()
    if row is None:
        raise NotFound(f"There is no switch {switch_id}.")
    return _switch(row)


def switches(
    host: str = "", states: tuple[State, ...] = (), before: int | None = None, limit: int = 50
) -> list[Switch]:
    """Switches, newest first; `before` is the id from which the page goes on downward."""
    rows: QuerySet[SwitchEvent] = SwitchEvent.objects.select_related("host").order_by("-id")
    if host:
        rows = rows.filter(host__name=host) if host.isprintable() else rows.none()
    if states:
        rows = rows.filter(state__in=[s.value for s in states])
    if before is not None:
        rows = rows.filter(id__lt=before)
    return [_switch(row) for row in rows[: min(limit, MAX_ROWS)]]


@dataclass(frozen=True, slots=True)
class ProfileFacts:
    """A profile as a list shows it, with the hosts that use it."""

    name: str
    tag: str
    keep_alive: str
    options: Mapping[str, Any]
    active_on: tuple[str, ...]
    pinned_on: tuple[str, ...]


def profiles() -> list[ProfileFacts]:
    """All profiles by name, and where each is in use."""
    rows = ModelProfile.objects.prefetch_related("active_on", "pinned_on")
    return [
        ProfileFacts(
            name=row.name,
            tag=row.tag,
            keep_alive=row.keep_alive,
            options=dict(row.options),
            active_on=_names(row.active_on.all()),
            pinned_on=_names(row.pinned_on.all()),
        )
        for row in rows
    ]


def profile_id(name: str) -> int:
    """The id of a profile. Raises NotFound."""
    found = ModelProfile.objects.filter(name=name).values_list("id", flat=True).first()
    if found is None:
        raise NotFound(f"There is no profile named {name!r}.")
    return found


def _names(rows: QuerySet[Host]) -> tuple[str, ...]:
    return tuple(row.name for row in rows if row.removed_at is None)


def named(rows: QuerySet[Named], name: str) -> Named | None:
    """The row of this name. No database is asked for what none can hold: half a surrogate, NUL."""
    return rows.filter(name=name).first() if name.isprintable() else None


def _find(name: str) -> Host:
    rows = Host.objects.filter(removed_at=None).select_related("active_profile")
    row = named(rows, name) if name else rows.filter(is_default=True).first()
    if row is None:
        raise NotFound(f"There is no host named {name!r}." if name else "There is no host yet.")
    return row


def _host(row: Host, running: int | None) -> HostFacts:
    return HostFacts(
        id=row.pk,
        name=row.name,
        base_url=row.base_url,
        vram_bytes=row.vram_bytes,
        simulated=row.simulated,
        is_default=row.is_default,
        strategy=row.strategy,
        active=active_of(row),
        open_switch=running,
    )


def active_of(row: Host) -> Active | None:
    """What is recorded as active on a host, if anything is."""
    if not row.active_tag:
        return None
    stored = row.active_spec
    spec = Spec.from_json(stored) if stored else Spec("", row.active_tag, row.keep_alive)
    return Active(
        model=row.active_tag,
        digest=row.active_digest,
        profile=row.active_profile.name if row.active_profile else spec.profile,
        since=row.active_since,
        degraded=row.degraded,
        spec=spec,
    )


def _switch(row: SwitchEvent) -> Switch:
    return Switch(
        id=row.pk,
        host_id=row.host_id,
        host=row.host.name,
        state=State(row.state),
        model=row.to_tag,
        digest=row.to_digest,
        profile=str(row.to_spec.get("profile", "")),
        previous_model=row.from_tag,
        previous_digest=row.from_digest,
        actor=row.actor,
        source=row.source,
        reason=row.reason,
        strategy=row.strategy or row.strategy_asked,
        strategy_asked=row.strategy_asked,
        strategy_reason=row.strategy_reason,
        claimed=row.fence > 0 or row.state != State.QUEUED.value,
        phases=tuple(row.phases),
        plan=row.plan,
        before=_residents(row.before),
        after=_residents(row.after),
        figures=row.figures,
        warnings=tuple(row.warnings),
        error_code=row.error_code,
        error=row.error,
        outcome=row.outcome,
        restored=row.restored,
        degraded=row.degraded,
        cancel_asked_by=row.cancel_asked_by,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def _residents(rows: list[dict[str, Any]] | None) -> tuple[Resident, ...] | None:
    return None if rows is None else tuple(Resident.from_json(r) for r in rows)
