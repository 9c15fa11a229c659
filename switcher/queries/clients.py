"""What the clients of a host get right now, by each name that they may use; and what they used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from switcher.domain.observed import Installed, Observation, full_name, short_name
from switcher.domain.published_name import PublishedName
from switcher.models import GatewayName, Host
from switcher.queries.gates import Route, routes
from switcher.queries.hosts import host_queryset, known_by_host
from switcher.queries.hoststates import Known

POLICY_WORDS = {
    "active": "Whatever a client names, it gets the active model.",
    "names": "A name below gets its profile; any other name gets the active model.",
    "strict": "Only the names below and the active model's own are served; any other is a 404.",
}


@dataclass(frozen=True, slots=True)
class ClientName:
    """A name, and what a client that uses it gets. Without a `model` it gets a 404 or, where no
    model is active, a 503. `state` is active (loaded), idle or none, as `word` says."""

    name: str  # empty: any other name
    model: str
    profile: str
    state: str
    word: str
    embeds: bool = False


@dataclass(frozen=True, slots=True)
class ClientsPage:
    """What a host's page about its clients shows. `names` are profiles by the name that stands for
    them, as they are kept; `rows` what a client gets for each name now."""

    host_id: int
    host: str
    is_default: bool
    policy: str
    names: tuple[tuple[str, str], ...]
    rows: tuple[ClientName, ...]
    published: PublishedName
    address: str

    @property
    def words(self) -> str:
        return POLICY_WORDS[self.policy]

    @property
    def unused(self) -> tuple[str, ...]:
        """Names that mean nothing under this policy."""
        return tuple(name for name, _ in self.names) if self.policy == "active" else ()


def clients_page(name: str, fresh: Mapping[int, Observation] | None = None) -> ClientsPage | None:
    """One host's; None if there is none of this name. `fresh` are readings by host id."""
    host = host_queryset().filter(name=name).first()
    route = routes().by_name.get(name)
    if host is None or route is None:
        return None
    known = known_by_host([host], fresh)[host.pk]
    return ClientsPage(
        host_id=host.pk,
        host=host.name,
        is_default=host.is_default,
        policy=route.policy,
        names=names_of(host),
        rows=tuple(_row(route, known, name) for name in _worth_telling(route)),
        published=PublishedName.of(host),
        address=host.base_url,
    )


def names_of(host: Host) -> tuple[tuple[str, str], ...]:
    """Name and profile of each, by name."""
    rows = GatewayName.objects.filter(host=host).order_by("name")
    return tuple(rows.values_list("name", "profile__name"))


def _worth_telling(route: Route) -> list[str]:
    names = [name for name, _ in route.served_names]
    own = sorted(short_name(name) for name in route.active_names)
    return [*dict.fromkeys([*own, *names]), ""]


def _row(route: Route, known: Known, name: str) -> ClientName:
    choice = route.resolve(full_name(name) if name else "")
    if choice is None and route.policy == "strict":
        return ClientName(name, "", "", "none", "404: not served here")
    if choice is None:
        return ClientName(name, "", "", "none", "503: no model is active")
    on_disk = next((i for i in known.installed if i.name == full_name(choice.model)), None)
    state, word = _state(on_disk, known)
    embeds = on_disk is not None and "embedding" in on_disk.capabilities
    return ClientName(name, short_name(choice.model), choice.spec.profile, state, word, embeds)


def _state(on_disk: Installed | None, known: Known) -> tuple[str, str]:
    if on_disk is None:
        return "none", "Not on this host" if known.installed else "Not known"
    if any(r.digest == on_disk.digest for r in known.resident):
        return "active", "Loaded"
    return "idle", "Not loaded"
