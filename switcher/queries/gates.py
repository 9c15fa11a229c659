"""Where requests go, for the gateway's table; and what its processes told, for a switch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta

from django.db.models.functions import Now

from switcher.domain.inflight import DEAD_AFTER_S
from switcher.domain.observed import full_name, short_name
from switcher.domain.specs import Spec
from switcher.domain.states import OPEN, State, Strategy, holds_requests
from switcher.models import GatewayName, GatewayProcess, Host, SwitchEvent
from switcher.queries.api import Active, active_of
from switcher.queries.desired import spec_of
from switcher.queries.keys import KeyFacts, by_digest

OPEN_STATES = sorted(s.value for s in OPEN)


@dataclass(frozen=True, slots=True)
class Choice:
    """A model and how it is loaded."""

    model: str
    spec: Spec


@dataclass(frozen=True, slots=True)
class Route:
    """A host as the gateway sees it. `gate` is the switch that makes requests wait, 0 where none
    does. `names` are the models that clients may name, by that name."""

    host_id: int
    host: str
    base_url: str
    active: Active | None
    gate: int = 0
    policy: str = "active"
    names: Mapping[str, Spec] = field(default_factory=dict)
    published: str = ""

    @property
    def held(self) -> bool:
        return bool(self.gate)

    @property
    def own_names(self) -> set[str]:
        """By which names the active model goes: its own, and the one that it is published by."""
        names = {full_name(self.active.model)} if self.active else set()
        return names | ({full_name(self.published)} if self.published else set())

    def meant(self, name: str) -> Choice | None:
        """The model for a request that names `name`, in full; None where there is none.

        active: the active model, whatever is named. names: a name that stands for a profile gets
        that; all others the active model. strict: only such names and the active model's own.
        A profile of the active model gets it as it was switched to: see Spec.loaded_as.
        """
        if self.policy != "active" and name in self.names:
            spec = self.names[name]
            if self.active is None or spec.name not in self.own_names:
                return Choice(spec.tag, spec)
            return Choice(self.active.model, spec.loaded_as(self.active.spec))
        if self.active is None or (self.policy == "strict" and name not in self.own_names):
            return None
        return Choice(self.active.model, self.active.spec)

    @property
    def served(self) -> list[tuple[str, str]]:
        """The names that are worth naming here, each with the tag that it means now; the active
        model's first."""
        rows = [(self.active.model, self.active.model)] if self.active else []
        if self.policy != "active":
            rows += [(short_name(name), spec.tag) for name, spec in sorted(self.names.items())]
        return list(dict(rows).items())


@dataclass(frozen=True, slots=True)
class Routes:
    """All routes at one moment, and the keys that lead to them, by the SHA-256 of the key."""

    by_name: Mapping[str, Route]
    default: Route | None
    keys: Mapping[str, KeyFacts] = field(default_factory=dict)

    def find(self, name: str) -> Route | None:
        """The named host's route, or the default one's."""
        return self.by_name.get(name) if name else self.default


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the gateway's processes are: those that do not know yet that the gate is closed,
    the requests that the others still have under way, and those of them that are not written to
    the host yet."""

    processes: int
    unaware: int
    in_flight: int
    unsent: int = 0


def routes() -> Routes:
    """Where requests go now, in six queries."""
    gates = _gates()
    names: dict[int, dict[str, Spec]] = {}
    for row in GatewayName.objects.select_related("profile"):
        names.setdefault(row.host_id, {})[full_name(row.name)] = spec_of(row.profile)
    found: dict[str, Route] = {}
    default = None
    for host in Host.objects.filter(removed_at=None).select_related("active_profile"):
        route = Route(
            host_id=host.pk,
            host=host.name,
            base_url=host.base_url,
            active=_active(host),
            gate=gates.get(host.pk, 0),
            policy=host.gateway_policy,
            names=names.get(host.pk, {}),
            published=host.published_name,
        )
        found[host.name] = route
        if host.is_default:
            default = route
    return Routes(found, default, by_digest())


def _active(host: Host) -> Active | None:
    """What is active, under the name that its profile has now: keys are bound to profiles, and
    another one may have taken the name that it was switched to by."""
    active = active_of(host)
    if active is None:
        return None
    profile = host.active_profile.name if host.active_profile else ""
    return replace(active, spec=replace(active.spec, profile=profile))


def _gates() -> dict[int, int]:
    """The switches that hold requests now, by host id."""
    rows = SwitchEvent.objects.filter(state__in=OPEN_STATES).exclude(strategy="")
    return {
        host_id: switch_id
        for switch_id, host_id, state, strategy in rows.values_list(
            "id", "host_id", "state", "strategy"
        )
        if holds_requests(Strategy(strategy), State(state))
    }


def standing(host_id: int, switch_id: int) -> Standing:
    """What the processes that live have told of this switch's closed gate."""
    rows = GatewayProcess.objects.filter(seen_at__gt=Now() - timedelta(seconds=DEAD_AFTER_S))
    alive = list(rows.values_list("gates", flat=True))
    unaware = in_flight = unsent = 0
    for gates in alive:
        told = gates.get(str(host_id))
        if told is None or told[0] != switch_id:
            unaware += 1
        else:
            in_flight += int(told[1])
            unsent += int(told[2])
    return Standing(len(alive), unaware, in_flight, unsent)
