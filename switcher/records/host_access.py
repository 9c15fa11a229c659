"""How a host is reached: its encrypted credentials, and what its certificate is checked by."""

from __future__ import annotations

from typing import Any

from switcher.audit.ledger import Actor, append, writing
from switcher.domain.clock import Clock, system
from switcher.domain.errors import NotFound
from switcher.domain.servers import Credentials, Server
from switcher.models import Host
from switcher.ollama.sealing import seal, unseal
from switcher.ollama.transport import certificates_in, check_tls, fingerprints


def set_access(
    host_id: int,
    actor: Actor,
    *,
    add: Credentials | None = None,
    forget: bool = False,
    ca_certificate: str | None = None,
    verify_tls: bool | None = None,
    clock: Clock = system,
) -> None:
    """Change how a host is reached; None leaves it as it is.

    `add` takes the place of what it names only; `forget` drops all credentials before. The entry
    says which kinds there are, never what they are. Raises BadRequest, NotFound,
    CredentialsUnreadable.
    """
    with writing():
        host = Host.objects.select_for_update().filter(pk=host_id, removed_at=None).first()
        if host is None:
            raise NotFound("There is no such host any more.")
        before = Credentials() if forget else unseal(host.sealed_credentials)
        old = _facts(host.server, None if forget else before)
        if add is not None or forget:
            credentials = before.updated((add or Credentials()).checked())
            host.sealed_credentials = seal(credentials)
        else:
            credentials = before
        if ca_certificate is not None:
            host.ca_certificate = certificates_in(ca_certificate)
        if verify_tls is not None:
            host.verify_tls = verify_tls
        check_tls(host.server, credentials)
        host.save(update_fields=["sealed_credentials", "ca_certificate", "verify_tls"])
        append(
            "host.access",
            actor,
            host=host.name,
            clock=clock,
            before=old,
            after=_facts(host.server, credentials),
        )


def _facts(server: Server, credentials: Credentials | None) -> dict[str, Any]:
    """Return what the trail records: kinds of credentials, but no secret. They are None if they
    were dropped unread."""
    return {
        "credentials": None if credentials is None else credentials.kinds(),
        "ca_certificate": fingerprints(server.ca_certificate),
        "verify_tls": server.verify_tls,
    }
