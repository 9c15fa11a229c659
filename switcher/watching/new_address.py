"""Check, before a host is saved, that its address may be contacted and is not that of another
host's server.

`records` compares addresses; here the servers themselves are asked, since one server may be reached
by its name, several IP addresses, or a proxy.
"""

from __future__ import annotations

from switcher.domain.addresses import place_of
from switcher.domain.clock import Clock, system
from switcher.domain.errors import BadRequest
from switcher.domain.observed import Observation
from switcher.domain.same_server import MATCHES, is_same_catalog, is_same_load
from switcher.domain.servers import Server
from switcher.ollama.client import Client
from switcher.ollama.connecting import check_address
from switcher.ollama.errors import AddressRefused, OllamaError
from switcher.queries.hosts import HostSettings, hosts
from switcher.queries.readings import last_reading

TRIES = 4  # a request that ends between two readings changes an expiry


def check_new_server(
    server: Server | str, host_id: int | None = None, clock: Clock = system
) -> None:
    """Raise BadRequest if the server is another host's than this one's, or is never contacted.

    A server that does not answer passes: the watcher recognises it once it does.
    """
    server = Server.at(server)
    base_url = server.base_url
    place = place_of(base_url)
    others = [other for other in hosts() if other.id != host_id]
    if any(place_of(other.base_url) == place for other in others):
        return  # `records` refuses it by name
    client = Client(server)
    try:
        check_address(base_url)
        if others:
            _check_server(client, base_url, others, clock)
    except AddressRefused as exc:
        raise BadRequest(exc.text, "base_url") from exc
    finally:
        client.close()


def _check_server(client: Client, base_url: str, others: list[HostSettings], clock: Clock) -> None:
    """Ask the server what it lists. Raises BadRequest, AddressRefused."""
    try:
        client.resident()
    except AddressRefused:
        raise
    except OllamaError:
        return
    seen = client.observe(clock.now())
    for other in others:
        if _may_be(seen, other):
            _compare(client, base_url, other, clock)


def _may_be(seen: Observation, other: HostSettings) -> bool:
    """Return whether the other host has last listed the same models, or was never read."""
    known = last_reading(other.id)
    contents = {(i.name, i.digest) for i in seen.installed}
    return bool(contents) and (
        known is None or {(i.name, i.digest) for i in known.installed} == contents
    )


def _compare(client: Client, base_url: str, other: HostSettings, clock: Clock) -> None:
    their_client = Client(other.server)
    matches = 0
    try:
        for _ in range(TRIES):
            theirs, ours = their_client.observe(clock.now()), client.observe(clock.now())
            if not is_same_catalog(ours, theirs):
                return
            if not (ours.loads or theirs.loads):
                _refuse_idle(base_url, other)
            matches += is_same_load(ours, theirs)
            if matches == MATCHES:
                raise BadRequest(
                    f"{base_url} is the server of host {other.name} ({other.base_url}): both list "
                    "the same models, changed and loaded at the same nanosecond.",
                    "base_url",
                )
    finally:
        their_client.close()


def _refuse_idle(base_url: str, other: HostSettings) -> None:
    raise BadRequest(
        f"{base_url} lists just the models of host {other.name} ({other.base_url}), changed at the "
        "same nanosecond. If they are two servers that share a directory, load a model on one of "
        "them and try again.",
        "base_url",
    )
