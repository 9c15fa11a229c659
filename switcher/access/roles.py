"""What each role may do. Staff see everything; operators switch; auditors read.

An auditor reviews and exports the audit trail and changes nothing, whatever other role they have:
nobody audits their own work.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import AnonymousUser, Group
from django.db.models import Exists, OuterRef
from django.http import HttpRequest

OPERATORS = "operators"
AUDITORS = "auditors"
NOBODY = AnonymousUser()


class RoleBackend(ModelBackend):
    """Loads a user with role and theme in one query.

    Sessions store the path of their backend. New ones store that of PasswordBackend, which checks
    passwords; older ones store `switcher.access.RoleBackend`.
    """

    def authenticate(self, request: HttpRequest | None, **_: Any) -> None:  # type: ignore[override]
        """Return None: this backend signs nobody in."""

    def get_user(self, user_id: int) -> Any:
        users = get_user_model()._default_manager.select_related("preference")
        operator = Exists(Group.objects.filter(user=OuterRef("pk"), name=OPERATORS))
        auditor = Exists(Group.objects.filter(user=OuterRef("pk"), name=AUDITORS))
        roles = users.annotate(is_operator=operator, is_auditor=auditor)
        user = roles.filter(pk=user_id).first()
        return user if user is not None and self.user_can_authenticate(user) else None


def can_view(user: Any) -> bool:
    """Return whether the user may view hosts, switches and profiles: staff."""
    return bool(user.is_authenticated and user.is_active and user.is_staff)


def can_switch(user: Any) -> bool:
    """Return whether the user may switch models: superusers and operators, unless also auditors."""
    if isinstance(user, AnonymousUser) or not can_view(user) or _is_auditor(user):
        return False
    return user.is_superuser or _is_member(user, "is_operator", OPERATORS)


def can_review(user: Any) -> bool:
    """Return whether the user may review entries: only auditors, since they review what admins
    did."""
    return can_view(user) and _is_auditor(user)


def can_export(user: Any) -> bool:
    """Return whether the user may export the audit trail: auditors and superusers."""
    return can_view(user) and (user.is_superuser or can_review(user))


def can_administer(user: Any) -> bool:
    """Return whether the user may change hosts and keys and erase personal data: superusers, unless
    also auditors.
    """
    return is_admin(user) and not _is_auditor(user)


def is_admin(user: Any) -> bool:
    """Return whether the user may open the Django admin, which manages accounts: superusers.

    An auditor who is a superuser can leave the group of auditors there; the audit trail records
    that, like every change of a role.
    """
    return bool(can_view(user) and user.is_superuser)


def theme(user: Any) -> str:
    """Return the user's choice of colours: system, light or dark."""
    preference = getattr(user, "preference", None) if user.is_authenticated else None
    return preference.theme if preference else "system"


def _is_auditor(user: Any) -> bool:
    return _is_member(user, "is_auditor", AUDITORS)


def _is_member(user: Any, annotation: str, group: str) -> bool:
    """Return whether the user is in a group. Only users not loaded by RoleBackend need a query."""
    known = getattr(user, annotation, None)
    return bool(user.groups.filter(name=group).exists() if known is None else known)
