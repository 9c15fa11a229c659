"""Who may do what. Two roles beside the admin: operators switch, auditors read.

Staff may look at everything; switching needs the operators' group or a superuser.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import AnonymousUser, Group
from django.db.models import Exists, OuterRef

OPERATORS = "operators"
AUDITORS = "auditors"


class RoleBackend(ModelBackend):
    """Loads the signed-in user with its role and theme in the one query that is made anyway."""

    def get_user(self, user_id: int) -> Any:
        users = get_user_model()._default_manager.select_related("preference")
        operator = Exists(Group.objects.filter(user=OuterRef("pk"), name=OPERATORS))
        auditor = Exists(Group.objects.filter(user=OuterRef("pk"), name=AUDITORS))
        roles = users.annotate(is_operator=operator, is_auditor=auditor)
        user = roles.filter(pk=user_id).first()
        return user if user is not None and self.user_can_authenticate(user) else None


def can_view(user: Any) -> bool:
    """Staff see hosts, events and profiles."""
    return bool(user.is_authenticated and user.is_active and user.is_staff)


def can_switch(user: Any) -> bool:
    """Superusers and operators change what a host holds; auditors never do."""
    if isinstance(user, AnonymousUser) or not can_view(user):
        return False
    if user.is_superuser:
        return True
    return _is_member(user, "is_operator", OPERATORS)


def can_review(user: Any) -> bool:
    """Auditors alone: an admin's own work is what they look at."""
    return can_view(user) and _is_member(user, "is_auditor", AUDITORS)


def can_export(user: Any) -> bool:
    """Auditors and superusers take the audit trail along."""
    return can_view(user) and (user.is_superuser or can_review(user))


def _is_member(user: Any, known_as: str, group: str) -> bool:
    known = getattr(user, known_as, None)
    return bool(user.groups.filter(name=group).exists() if known is None else known)


def can_administer(user: Any) -> bool:
    """Only superusers change hosts and who may do what; operators also edit profiles."""
    return bool(can_view(user) and user.is_superuser)


def theme(user: Any) -> str:
    """The person's choice of colours: system, light or dark."""
    preference = getattr(user, "preference", None) if user.is_authenticated else None
    return preference.theme if preference else "system"


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
