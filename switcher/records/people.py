"""Accounts and roles: each change leaves an entry, whatever the entry point.

Django itself saves accounts: its admin, `createsuperuser`, `changepassword`. So the entries are
written by the models: `save` is wrapped, and signals cover the rest. (A signal would not be enough
for `save`: unless there is a transaction around it, the change is committed before `post_save` is
sent, and an entry that fails would not undo it.) Changes that bypass the models (SQL,
`QuerySet.update`, `loaddata`) leave no entry.
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
    """Attribute the changes in this block to the actor that `who` returns. It is called only if
    something changes."""
    before = _acting.set(who)
    try:
        yield
    finally:
        _acting.reset(before)


def at_this_terminal() -> Actor:
    """Return the user who runs this process, by its user id: $USER may hold anything."""
    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    return Actor(name=name, source="command")


def _actor() -> Actor:
    return (_acting.get() or at_this_terminal)()


def watch() -> None:
    """Record changes from now on. Call it once per process."""
    user = get_user_model()
    user.add_to_class("save", _recorded(user.save, (*USER_FIELDS, "password"), _record_user))
    Group.add_to_class("save", _recorded(Group.save, ("name",), _record_group))
    pre_delete.connect(_user_deleted, sender=user)
    pre_delete.connect(_group_deleted, sender=Group)
    m2m_changed.connect(_groups_changed, sender=user.groups.through)
    m2m_changed.connect(_permissions_changed, sender=user.user_permissions.through)
    m2m_changed.connect(_permissions_changed, sender=Group.permissions.through)


def _recorded(
    save: Callable[..., None], fields: tuple[str, ...], record: Callable[[Any, Facts, Facts], None]
) -> Callable[..., None]:
    """Wrap `save` in a transaction with the entry about changes to these fields. Saving only other
    fields, such as the time of the last login, is not recorded."""

    @wraps(save)
    def save_and_record(self: Any, *args: Any, **kwargs: Any) -> None:
        only = kwargs.get("update_fields")
        if (only is not None and not set(only) & set(fields)) or _is_rehash(self, only):
            save(self, *args, **kwargs)
            return
        with writing():
            before = _stored(self, fields)
            save(self, *args, **kwargs)
            record(self, before, _stored(self, fields))

    return save_and_record


def _is_rehash(user: Any, only: Any) -> bool:
    """Return whether Django only rehashes an unchanged password, as it may do at a login."""
    return only is not None and set(only) == {"password"} and user._password is None


def _stored(row: Any, fields: tuple[str, ...]) -> Facts:
    rows = type(row)._base_manager.filter(pk=row.pk) if row.pk is not None else None
    return (rows.values(*fields).first() or {}) if rows is not None else {}


def _record_user(user: Any, before: Facts, after: Facts) -> None:
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


def _record_group(group: Any, before: Facts, after: Facts) -> None:
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


# --- groups of users, permissions of both: Django sends m2m_changed before and after a change -----


def _groups(user: Any) -> list[str]:
    return sorted(user.groups.values_list("name", flat=True))


def _permissions(owner: Any) -> list[str]:
    rows = owner.permissions if isinstance(owner, Group) else owner.user_permissions
    return sorted(rows.values_list("codename", flat=True))


def _groups_changed(**signal: Any) -> None:
    _record_relation("groups", _groups, **signal)


def _permissions_changed(**signal: Any) -> None:
    _record_relation("permissions", _permissions, **signal)


def _record_relation(field: str, read: Callable[[Any], list[str]], **signal: Any) -> None:
    """Remember what each owner has before the change, and record the differences after it."""
    remembered = signal["instance"].__dict__.setdefault("_before_change", {})
    with writing():
        if signal["action"].startswith("pre_"):
            remembered[field] = [(owner, read(owner)) for owner in _owners(**signal)]
            return
        for owner, before in remembered.pop(field, []):
            after = read(owner)
            if before != after:
                what = "group" if isinstance(owner, Group) else "user"
                name = owner.name if isinstance(owner, Group) else owner.get_username()
                facts: Facts = {what: name, "before": {field: before}, "after": {field: after}}
                append(f"{what}.changed", _actor(), **facts)


def _owners(
    *, instance: Any, reverse: bool, model: Any, pk_set: Any, sender: Any, **_: Any
) -> list[Any]:
    """Return whose groups or permissions change: usually the instance. In a reverse change, such as
    `group.user_set.add(…)`, they are the users on the other side."""
    if not reverse:
        return [instance]
    rows = model._base_manager.all()
    if pk_set is not None:
        return list(rows.filter(pk__in=pk_set))
    (far,) = [f.name for f in sender._meta.fields if f.related_model is type(instance)]
    (near,) = [f.name for f in sender._meta.fields if f.related_model is model]
    return list(rows.filter(pk__in=sender._base_manager.filter(**{far: instance}).values(near)))
