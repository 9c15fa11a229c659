"""What people may know of how a host is reached: never the credentials themselves."""

from __future__ import annotations

from dataclasses import dataclass

from switcher.ollama.errors import CredentialsUnreadable
from switcher.ollama.sealing import unseal
from switcher.queries.hosts import HostSettings


@dataclass(frozen=True, slots=True)
class HostAccess:
    """The kinds of a host's credentials, such as `bearer token`; `problem` says why they cannot be
    read."""

    kinds: tuple[str, ...]
    ca_certificate: str
    verify_tls: bool
    problem: str = ""


def host_access(host: HostSettings) -> HostAccess:
    """Return how a host is reached."""
    server, problem = host.server, ""
    kinds: tuple[str, ...] = ()
    try:
        kinds = tuple(unseal(server.sealed_credentials).kinds())
    except CredentialsUnreadable as exc:
        problem = f"{exc.text} {exc.advice}"
    return HostAccess(kinds, server.ca_certificate, server.verify_tls, problem)
