"""Accounts and roles: each change leaves its entry, whatever the entrance.

Django itself saves people: its admin, `createsuperuser`, `changepassword`. So the entries hang on
the models. A save alone is no transaction there; here it is one, with its entry. What is written
past the models (SQL, `QuerySet.update`, `loaddata`) leaves none.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import is_password_usable
from django.contrib.auth.models import Group
from django.db.models.signals import m2m_changed, pre_delete

from switcher.audit.ledger import Actor, append, writing

Facts = dict[str, Any]

USER_FIELDS = ("username", "is_active", "is_staff", "is_superuser")
_acting: ContextVar[Callable[[], Actor] | None] = ContextVar("acting", default=None)


@contextmanager
def acting(who: Callable[[], Actor]) -> Iterator[None]:
    """Whoever `who` gives, if it is asked at all, makes the changes in here."""
    before = _acting.set(who)
    try:
        yield
    finally:
        _acting.reset(before)


def at_this_terminal() -> Actor:
    """Who runs this process, by the system's own book: $USER may say anything."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    return Actor(name=name, source="command")


def _actor() -> Actor:
    return (_acting.get() or at_this_terminal)()


def watch() -> None:
    """From now on changes leave entries; once in a process."""
    user = get_user_model()
    user.add_to_class("save", _watched(user.save, (*USER_FIELDS, "password"), _tell_user))
    Group.add_to_class("save", _watched(Group.save, ("name",), _tell_group))
    pre_delete.connect(_user_deleted, sender=user)
    pre_delete.connect(_group_deleted, sender=Group)
    m2m_changed.connect(_groups_changed, sender=user.groups.through)
    m2m_changed.connect(_permissions_changed, sender=user.user_permissions.through)
    m2m_changed.connect(_permissions_changed, sender=Group.permissions.through)


def _watched(
    save: Callable[..., None], fields: tuple[str, ...], tell: Callable[[Any, Facts, Facts], None]
) -> Callable[..., None]:
    """`save` with what it changed in one transaction. Saving other fields, such as the time of the
    last login, is none of this."""

    @wraps(save)
    def saved(self: Any, *args: Any, **kwargs: Any) -> None:
        only = kwargs.get("update_fields")
        if (only is not None and not set(only) & set(fields)) or _is_rehash(self, only):
            save(self, *args, **kwargs)
            return
        with writing():
            before = _stored(self, fields)
            save(self, *args, **kwargs)
            tell(self, before, _stored(self, fields))

    return saved


def _is_rehash(user: Any, only: Any) -> bool:
    """Django stores a password anew, at a login, where the way to hash it has changed: it is the
    same password."""
    return only is not None and set(only) == {"password"} and user._password is None


def _stored(row: Any, fields: tuple[str, ...]) -> Facts:
    rows = type(row)._base_manager.filter(pk=row.pk) if row.pk is not None else None
    return (rows.values(*fields).first() or {}) if rows is not None else {}


def _tell_user(user: Any, before: Facts, after: Facts) -> None:
    name = after["username"]
    old, new = before.pop("password", ""), after.pop("password", "")
    if not before:
        append("user.added", _actor(), user=name, before={}, after=after)
        return
    fields = [field for field in after if before[field] != after[field]]
    if fields:
        was, now = ({field: side[field] for field in fields} for side in (before, after))
        append("user.changed", _actor(), user=name, before=was, after=now)
    if old != new:
        append("user.password-changed", _actor(), user=name, usable=is_password_usable(new))


def _tell_group(group: Any, before: Facts, after: Facts) -> None:
    if before != after:
        kind = "group.changed" if before else "group.added"
        append(kind, _actor(), group=after["name"], before=before, after=after)


def _user_deleted(instance: Any, **_: Any) -> None:
    with writing():
        before = _stored(instance, USER_FIELDS)
        if before:
            before |= {"groups": _groups(instance), "permissions": _permissions(instance)}
            append("user.deleted", _actor(), user=before["username"], before=before)


def _group_deleted(instance: Group, **_: Any) -> None:
    with writing():
        members = sorted(user.get_username() for user in instance.user_set.all())
        before = {"members": members, "permissions": _permissions(instance)}
        append("group.deleted", _actor(), group=instance.name, before=before)


# -- Groups of people, permissions of both. Django tells of such a change before and after.


def _groups(user: Any) -> list[str]:
    return sorted(user.groups.values_list("name", flat=True))


def _permissions(holder: Any) -> list[str]:
    held = holder.permissions if isinstance(holder, Group) else holder.user_permissions
    return sorted(held.values_list("codename", flat=True))


def _groups_changed(**told: Any) -> None:
    _follow("groups", _groups, **told)


def _permissions_changed(**told: Any) -> None:
    _follow("permissions", _permissions, **told)


def _follow(field: str, read: Callable[[Any], list[str]], **told: Any) -> None:
    instance, moment = told["instance"], told["action"].partition("_")[0]
    kept = instance.__dict__.setdefault("_before_change", {})
    with writing():
        if moment == "pre":
            kept[field] = [(who, read(who)) for who in _holders(**told)]
            return
        for who, before in kept.pop(field, []):
            after = read(who)
            if before != after:
                what = "group" if isinstance(who, Group) else "user"
                name = who.name if isinstance(who, Group) else who.get_username()
                facts: Facts = {what: name, "before": {field: before}, "after": {field: after}}
                append(f"{what}.changed", _actor(), **facts)


def _holders(
    *, instance: Any, reverse: bool, model: Any, pk_set: Any, sender: Any, **_: Any
) -> list[Any]:
    """Whose groups or permissions change: the one that was asked, or all on the other side."""
    if not reverse:
        return [instance]
    rows = model._base_manager.all()
    if pk_set is not None:
        return list(rows.filter(pk__in=pk_set))
    (far,) = [f.name for f in sender._meta.fields if f.related_model is type(instance)]
    (near,) = [f.name for f in sender._meta.fields if f.related_model is model]
    return list(rows.filter(pk__in=sender._base_manager.filter(**{far: instance}).values(near)))
