"""Who may do what, and where they are. Two roles beside the admin: operators switch, auditors read.

Staff may look at everything; switching needs the operators' group or a superuser. An auditor,
whatever else they are, reads, reviews and exports, and changes nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from axes.backends import AxesStandaloneBackend
from axes.exceptions import AxesBackendPermissionDenied
from axes.handlers.proxy import AxesProxyHandler
from axes.helpers import get_credentials
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import AnonymousUser, Group
from django.db.models import Exists, OuterRef
from django.http import HttpRequest

OPERATORS = "operators"
AUDITORS = "auditors"


class RoleBackend(AxesStandaloneBackend, ModelBackend):  # type: ignore[misc]  # axes has no types
    """Lets nobody in who is locked out. Loads the signed-in user with its role and theme in the one
    query that is made anyway."""

    def authenticate(  # type: ignore[override]
        self,
        request: HttpRequest,
        username: str | None = None,
        password: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """The person, or None. Raises PermissionDenied where the name or the address is locked."""
        AxesStandaloneBackend.authenticate(self, request, username, password, **kwargs)
        user = ModelBackend.authenticate(self, request, username, password, **kwargs)
        # Asked again: of many guesses at once, all were let through before the first one failed.
        if user is not None and not AxesProxyHandler.is_allowed(request, get_credentials(username)):
            request.axes_locked_out = True  # type: ignore[attr-defined]
            raise AxesBackendPermissionDenied("locked while the password was looked at")
        return user

    def get_user(self, user_id: int) -> Any:
        users = get_user_model()._default_manager.select_related("preference")
        operator = Exists(Group.objects.filter(user=OuterRef("pk"), name=OPERATORS))
        auditor = Exists(Group.objects.filter(user=OuterRef("pk"), name=AUDITORS))
        roles = users.annotate(is_operator=operator, is_auditor=auditor)
        user = roles.filter(pk=user_id).first()
        return user if user is not None and self.user_can_authenticate(user) else None


NOBODY = AnonymousUser()


def can_view(user: Any) -> bool:
    """Staff see hosts, events and profiles."""
    return bool(user.is_authenticated and user.is_active and user.is_staff)


def can_switch(user: Any) -> bool:
    """Superusers and operators change what a host holds; who also is an auditor does not, as
    nobody audits what they do themselves."""
    if isinstance(user, AnonymousUser) or not can_view(user) or _is_auditor(user):
        return False
    return user.is_superuser or _is_member(user, "is_operator", OPERATORS)


def can_review(user: Any) -> bool:
    """Auditors alone: an admin's own work is what they look at."""
    return can_view(user) and _is_auditor(user)


def can_export(user: Any) -> bool:
    """Auditors and superusers take the audit trail along."""
    return can_view(user) and (user.is_superuser or can_review(user))


def _is_auditor(user: Any) -> bool:
    return _is_member(user, "is_auditor", AUDITORS)


def _is_member(user: Any, known_as: str, group: str) -> bool:
    known = getattr(user, known_as, None)
    return bool(user.groups.filter(name=group).exists() if known is None else known)


def can_administer(user: Any) -> bool:
    """Only superusers change hosts and keys and erase what is personal; operators also edit
    profiles. No auditor does, as with switching."""
    return is_admin(user) and not _is_auditor(user)


def is_admin(user: Any) -> bool:
    """A superuser, whose Django admin has the accounts and groups. There an auditor who is one
    leaves the auditors again; that is an entry, as every change of a role."""
    return bool(can_view(user) and user.is_superuser)


def theme(user: Any) -> str:
    """The person's choice of colours: system, light or dark."""
    preference = getattr(user, "preference", None) if user.is_authenticated else None
    return preference.theme if preference else "system"


def address_of(request: HttpRequest) -> str | None:
    """The address of who sent this; None where there is none, as behind a Unix socket."""
    return client_address(
        request.META.get("REMOTE_ADDR", ""), request.headers.get("X-Forwarded-For", "")
    )


def origin_of(request: HttpRequest) -> tuple[str | None, str]:
    """Address and browser of who sent this, as an Actor has them."""
    return address_of(request), request.headers.get("User-Agent", "")[:300]


def client_address(peer: str, forwarded: str) -> str | None:
    """Where a request comes from. `peer` is who holds the connection; `forwarded` is the value of
    X-Forwarded-For, of several lines joined by commas.

    Each proxy appends who it got the request from, and anybody may send the header: it is read
    from its end, and believed as long as it was written by a proxy that the settings name.
    """
    proxies = _networks(tuple(settings.SWITCHER_TRUSTED_PROXIES))
    found = _ip(peer)
    for text in reversed(forwarded.split(",") if forwarded else []):
        named = _ip(text)
        if found is None or named is None or not any(found in network for network in proxies):
            break
        found = named
    return str(found) if found else None


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@cache
def _networks(proxies: tuple[str, ...]) -> tuple[_Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in proxies)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Some proxies add the port: `192.0.2.1:4711`, `[2001:db8::1]:4711`."""
    text = text.strip()
    ported = re.fullmatch(r"\[([^\]]*)\](?::\d+)?|([0-9.]+):\d+", text)
    try:
        address = ipaddress.ip_address((ported[1] or ported[2] or "") if ported else text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return address.ipv4_mapped
        # Its zone is a matter of the machine that it was met on; a database takes none.
        return ipaddress.IPv6Address(int(address))
    return address


_PORTS = {"http": 80, "https": 443}


def is_foreign(
    headers: Mapping[str, str], host: str, secure: bool, trusted: Iterable[str] = ()
) -> bool:
    """Whether a browser marks this request as sent by another site's page.

    A browser sends our cookie along with it, so a cookie alone proves no intent. `headers` have
    lower-case names; `host` is as the client addressed it, with its port; `trusted` are origins
    (https://example.com, https://*.example.com) whose pages may. Clients that are no browsers
    send neither header and need nothing.
    """
    origin = headers.get("origin")
    if origin is not None:
        if _is_trusted(origin, trusted):
            return False
        if _origin(origin) != _origin(f"{'https' if secure else 'http'}://{host}"):
            return True
    return headers.get("sec-fetch-site", "none") not in {"same-origin", "none"}


def _is_trusted(origin: str, trusted: Iterable[str]) -> bool:
    scheme, host, port = _origin(origin)
    for pattern in trusted:
        wanted = _origin(pattern.replace("://*.", "://", 1))
        if (scheme, port) != (wanted[0], wanted[2]):
            continue
        if host == wanted[1] or ("://*." in pattern and host.endswith(f".{wanted[1]}")):
            return True
    return False


def _origin(text: str) -> tuple[str, str, int]:
    """Scheme, host and port; for what is none (`null`) a value that equals no real one."""
    try:
        parts = urlsplit(text)
        port = parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return "", text, 0
    return parts.scheme, parts.hostname or "", port
