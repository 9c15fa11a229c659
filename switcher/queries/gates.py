"""The routes of the gateway's requests, and what gateway processes have reported to a switch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from switcher.domain.model_names import ModelName
from switcher.domain.observed import Resident
from switcher.domain.servers import Server
from switcher.domain.specs import Spec
from switcher.domain.states import OPEN, State, Strategy, holds_requests
from switcher.domain.versions import numbers_of
from switcher.models import (
    GatewayName,
    GatewayProcess,
    Host,
    ModelCopy,
    ModelProfile,
    Pin,
    Reading,
    SwitchEvent,
)
from switcher.models.shared_time import shared_now
from switcher.queries.desired import figures_of_active
from switcher.queries.hosts import ActiveModel, active_of
from switcher.queries.keys import KeyFacts, by_digest
from switcher.queries.model_copies import ModelCopyRow, copy_of

# Instead of a switch's id: the database cannot be read, and a switch may be under way.
UNKNOWN_GATE = -1


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model that a client gets, and how it is loaded.

    `digest` is the content that was verified, `copy` a name that reaches it whatever becomes of the
    model's own name; both are empty if there is none.
    """

    model: str
    spec: Spec
    digest: str = ""
    copy: str = ""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """How a model is loaded, as last seen: its context length, 0 if unknown, and the first numbers
    of its server's version."""

    context: int = 0
    version: tuple[int, ...] = ()


NOT_LOADED = LoadedModel()


@dataclass(frozen=True, slots=True)
class Route:
    """A route to a host, as the gateway sees it.

    `gate` is the id of the switch that holds requests back, 0 while the gate is open. `names` are
    the profiles of the aliases that clients may use, by name. `copies` are the copies that are kept
    of loaded models, by digest, oldest first. `verified` are the digests of pinned models when they
    were last seen loaded, by name. A `stale` route was read before an outage of the
    database.
    """

    host_id: int
    host: str
    server: Server
    active: ActiveModel | None
    gate: int = 0
    policy: str = "active"
    names: Mapping[ModelName, Spec] = field(default_factory=dict)
    published: str = ""
    pinned: tuple[Spec, ...] = ()
    allows_cloud: bool = False
    copies: Mapping[str, ModelCopyRow] = field(default_factory=dict)
    verified: Mapping[ModelName, str] = field(default_factory=dict)
    stale: bool = False
    # What was last seen loaded, by digest and by name. It changes without an effect on the way that
    # a request takes.
    contexts: Mapping[str | ModelName, int] = field(default_factory=dict, compare=False)
    version: tuple[int, ...] = field(default=(), compare=False)

    def loaded(self, choice: ModelChoice) -> LoadedModel:
        """Return how a model is loaded."""
        named = ModelName.parse(choice.model)
        context = self.contexts.get(choice.digest) or self.contexts.get(named)
        return LoadedModel(context or choice.spec.num_ctx or 0, self.version)

    @property
    def active_names(self) -> set[ModelName]:
        """Return the active model's own name and its published name."""
        names = {self.active.name} if self.active else set()
        return names | ({ModelName.parse(self.published)} if self.published else set())

    def resolve(self, name: ModelName) -> ModelChoice | None:
        """Return the model for a request that names `name`; None if it gets none.

        By policy:
        - active: the active model, whatever the name.
        - names: an alias gets its profile, any other name the active model.
        - strict: an alias gets its profile, a name of the active model that model, others nothing.

        A profile of the active model is used with the settings that the model was loaded with
        (Spec.loaded_as).
        """
        if self.policy != "active" and name in self.names:
            return self.choose(self.names[name])
        if self.active is None or (self.policy == "strict" and name not in self.active_names):
            return None
        return self.active_choice

    @property
    def active_choice(self) -> ModelChoice | None:
        """Return the choice of the active model, loaded as it is."""
        return self._choose_active(self.active, self.active.spec) if self.active else None

    def choose(self, spec: Spec) -> ModelChoice:
        """Return the choice of a profile's model, whether it is the active one or not."""
        if self.active is None or spec.name not in self.active_names:
            return self.choose_other(spec)
        return self._choose_active(self.active, spec.loaded_as(self.active.spec))

    def choose_other(self, spec: Spec) -> ModelChoice:
        """Return the choice of a model that is not active."""
        held = [copy.digest for copy in self.copies.values() if copy.tag == spec.name]
        digest = held[-1] if held else self.verified.get(spec.name, "")
        return ModelChoice(spec.tag, spec, digest, self._copy_of(digest))

    def _choose_active(self, active: ActiveModel, spec: Spec) -> ModelChoice:
        if active.name.is_cloud:
            return ModelChoice(active.model, spec)  # the name alone says what answers (fact 20)
        return ModelChoice(active.model, spec, active.digest, self._copy_of(active.digest))

    def _copy_of(self, digest: str) -> str:
        copy = self.copies.get(digest)
        return copy.name.full if copy else ""

    @property
    def served_names(self) -> list[tuple[str, str]]:
        """Return the names to show to clients, each with its current tag; the active model's own
        comes first.
        """
        rows = [(self.active.model, self.active.model)] if self.active else []
        if self.policy != "active":
            rows += sorted((name.short, spec.tag) for name, spec in self.names.items())
        return list(dict(rows).items())


@dataclass(frozen=True, slots=True)
class Routes:
    """All routes at one moment, and the keys that open them, by the SHA-256 of each key.
    `fallbacks` are the profiles that keys fall back to, by name."""

    by_name: Mapping[str, Route]
    default: Route | None
    keys: Mapping[str, KeyFacts] = field(default_factory=dict)
    fallbacks: Mapping[str, Spec] = field(default_factory=dict)

    def find(self, name: str) -> Route | None:
        """Return the named host's route; the default host's if the name is empty."""
        return self.by_name.get(name) if name else self.default

    def as_stale(self, usable: frozenset[int]) -> Routes:
        """Return these routes for an outage, closed except for the hosts with these ids."""

        def stale(route: Route) -> Route:
            gate = route.gate if route.host_id in usable else route.gate or UNKNOWN_GATE
            return replace(route, gate=gate, stale=True)

        by_name = {name: stale(route) for name, route in self.by_name.items()}
        default = stale(self.default) if self.default else None
        return Routes(by_name, default, self.keys, self.fallbacks)


@dataclass(frozen=True, slots=True)
class GateStatus:
    """A summary of what the live gateway processes reported about a closed gate.

    `unaware` processes have not noticed yet that it is closed. The others have `in_flight` requests
    to the host, of which `unsent` are not written yet.
    """

    processes: int
    unaware: int
    in_flight: int
    unsent: int = 0


def routes() -> Routes:
    """Return the routes as of now, in eight queries."""
    gates, names, copies = _gates(), _names(), _copies()
    pinned, verified = _pins()
    found: dict[str, Route] = {}
    default = None
    hosts = Host.objects.filter(removed_at=None).select_related("active_profile", "reading")
    hosts = hosts.defer("reading__installed").annotate(loaded_figures=figures_of_active())
    for host in hosts:
        reading = getattr(host, "reading", None)
        route = Route(
            host_id=host.pk,
            host=host.name,
            server=host.server,
            active=_active(host),
            gate=gates.get(host.pk, 0),
            policy=host.gateway_policy,
            names=names.get(host.pk, {}),
            published=host.published_name,
            pinned=tuple(pinned.get(host.pk, ())),
            allows_cloud=host.allows_cloud,
            copies=copies.get(host.pk, {}),
            verified=verified.get(host.pk, {}),
            contexts=_contexts(host, reading),
            version=numbers_of(reading.version) if reading is not None else (),
        )
        found[host.name] = route
        if host.is_default:
            default = route
    keys = by_digest()
    return Routes(found, default, keys, _fallbacks(keys.values()))


def _fallbacks(keys: Iterable[KeyFacts]) -> dict[str, Spec]:
    names = {name for key in keys for name in key.fallback}
    rows = ModelProfile.objects.filter(name__in=names) if names else ()
    return {row.name: Spec.of_profile(row) for row in rows}


def _contexts(host: Any, reading: Reading | None) -> dict[str | ModelName, int]:
    """Return the context lengths that a host's models were last seen loaded with.

    A switch stores none of its readings, but the figures of what it loaded.
    """
    found: dict[str | ModelName, int] = {}
    for row in map(Resident.from_json, reading.resident if reading is not None else []):
        found |= {row.name: row.context_length, row.digest: row.context_length}
    figures = host.loaded_figures or {}
    is_older = reading is None or reading.at < (host.active_since or reading.at)
    if host.active_digest and (is_older or not found.get(host.active_digest)):
        found[host.active_digest] = figures.get("context_length") or 0
    return found


def _active(host: Host) -> ActiveModel | None:
    """Return the active model, with the current name of its profile.

    Keys are bound to profiles, and the name that the profile had at the time of the switch may
    belong to another one by now.
    """
    active = active_of(host)
    if active is None:
        return None
    profile = host.active_profile.name if host.active_profile else ""
    return replace(active, spec=replace(active.spec, profile=profile))


def _names() -> dict[int, dict[ModelName, Spec]]:
    """Return the profiles of all aliases, by host id and name."""
    names: dict[int, dict[ModelName, Spec]] = {}
    for row in GatewayName.objects.select_related("profile"):
        names.setdefault(row.host_id, {})[ModelName.parse(row.name)] = Spec.of_profile(row.profile)
    return names


def _pins() -> tuple[dict[int, list[Spec]], dict[int, dict[ModelName, str]]]:
    """Return the pinned profiles by host id, and the digests last seen loaded for them."""
    pinned: dict[int, list[Spec]] = {}
    verified: dict[int, dict[ModelName, str]] = {}
    for pin in Pin.objects.select_related("profile").order_by("profile__name"):
        spec = Spec.of_profile(pin.profile)
        pinned.setdefault(pin.host_id, []).append(spec)
        if pin.digest:
            verified.setdefault(pin.host_id, {})[spec.name] = pin.digest
    return pinned, verified


def _copies() -> dict[int, dict[str, ModelCopyRow]]:
    """Return the recorded model copies, by host id and digest."""
    copies: dict[int, dict[str, ModelCopyRow]] = {}
    for kept in ModelCopy.objects.order_by("id"):
        copies.setdefault(kept.host_id, {})[kept.digest] = copy_of(kept)
    return copies


def _gates() -> dict[int, int]:
    """Return the switches that hold requests back now, by host id."""
    rows = SwitchEvent.objects.filter(state__in=OPEN).exclude(strategy="")
    return {
        host_id: switch_id
        for switch_id, host_id, state, strategy in rows.values_list(
            "id", "host_id", "state", "strategy"
        )
        if holds_requests(Strategy(strategy), State(state))
    }


def gate_status(host_id: int, switch_id: int) -> GateStatus:
    """Return what the live gateway processes reported about the gate that this switch closed."""
    reports = list(GatewayProcess.alive(shared_now()).values_list("gates", flat=True))
    unaware = in_flight = unsent = 0
    for gates in reports:
        gate = gates.get(str(host_id))
        if gate is None or gate[0] != switch_id:
            unaware += 1
        else:
            in_flight += int(gate[1])
            unsent += int(gate[2])
    return GateStatus(len(reports), unaware, in_flight, unsent)
