"""What the clients of a host get now, for each name that they may use, and what limits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from switcher.domain.errors import NotFound
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Observation, find_installed
from switcher.presentation.residents import loaded_words
from switcher.queries.from_rows import from_row
from switcher.queries.gates import Route, routes
from switcher.queries.hosts import HostDetail, host_detail
from switcher.queries.readings import LatestReading

# By the gateway policy of a host.
POLICY_WORDS = {
    "active": "Whatever a client names, it gets the active model.",
    "names": "A name below gets its profile; any other name gets the active model.",
    "strict": "Only the names below and the active model's own are served; any other is a 404.",
}
# Gateway processes share no counter (gateway.meter).
LIMIT_WORDS = (
    "The limit is divided evenly among the gateway processes, rounded up. A client that keeps one "
    "connection open stays with one process, and gets no more than the share of that process."
)


@dataclass(frozen=True, slots=True)
class ClientName:
    """A name, and what its users get. Without a `model` they get a 404 or, if no model is active, a
    503. `state` is active (loaded), idle or none; `word` puts it into words."""

    name: str  # empty: any other name
    model: str
    profile: str
    state: str
    word: str
    embeds: bool = False


@dataclass(frozen=True, slots=True)
class ClientsPage(HostDetail):
    """The content of the page about a host's clients. `names` are the aliases and their profiles;
    `rows` show what a client now gets for each name.
    """

    names: tuple[tuple[str, str], ...]
    rows: tuple[ClientName, ...]

    @property
    def words(self) -> str:
        return POLICY_WORDS[self.gateway_policy]

    @property
    def unused(self) -> tuple[str, ...]:
        """Return the aliases that have no effect under this policy."""
        return tuple(name for name, _ in self.names) if self.gateway_policy == "active" else ()


def clients_page(name: str, fresh: Mapping[int, Observation] | None = None) -> ClientsPage:
    """Read and present the clients of a host. `fresh` are readings by host id. Raises NotFound."""
    host, route = host_detail(name, fresh), routes().by_name.get(name)
    if route is None:
        raise NotFound(f"There is no host named {name!r}.")
    return from_row(
        ClientsPage,
        host,
        names=tuple(sorted((name.short, spec.profile) for name, spec in route.names.items())),
        rows=tuple(_row(route, host.reading, name) for name in _shown_names(route)),
    )


def _shown_names(route: Route) -> list[str]:
    served = [name for name, _ in route.served_names]
    own = sorted(name.short for name in route.active_names)
    return [*dict.fromkeys([*own, *served]), ""]


def _row(route: Route, reading: LatestReading, name: str) -> ClientName:
    choice = route.resolve(ModelName.parse(name))
    if choice is None and route.policy == "strict":
        return ClientName(name, "", "", "none", "404: not served here")
    if choice is None:
        return ClientName(name, "", "", "none", "503: no model is active")
    model = ModelName.parse(choice.model)
    on_disk = find_installed(reading.installed, model)
    state, word = loaded_words(on_disk, reading)
    embeds = on_disk is not None and "embedding" in on_disk.capabilities
    return ClientName(name, model.short, choice.spec.profile, state, word, embeds)
