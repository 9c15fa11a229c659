"""Keys to the gateway. The key itself is shown once and never kept."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from switcher.audit.ledger import Actor, append, writing
from switcher.domain.clock import Clock, system
from switcher.domain.errors import BadRequest, Conflict, NotFound
from switcher.models import ApiKey, Host, ModelProfile

MARK = "sb-"
SHOWN = 10  # characters by which people recognise a key


@dataclass(frozen=True, slots=True)
class NewKey:
    """What a key may do. No hosts or profiles: all of them. None: no limit."""

    name: str
    hosts: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    manage: bool = False
    requests_a_minute: int | None = None
    at_once: int | None = None
    expires_at: datetime | None = None


def digest_of(token: str) -> str:
    """What is kept of a key. It is 256 random bits: no salt and no slow hash are needed."""
    return hashlib.sha256(token.encode()).hexdigest()


def make_key(new: NewKey, actor: Actor, clock: Clock = system) -> tuple[int, str]:
    """Make a key. Gives its id and the key itself, which nobody can show again."""
    name = new.name.strip()
    if not name or len(name) > 60 or not name.isprintable():
        raise BadRequest("Give the key a name of at most 60 characters.", "name")
    if new.expires_at is not None and new.expires_at <= clock.now():
        raise BadRequest("That time is over already.", "expires_at")
    token = MARK + secrets.token_urlsafe(32)
    with writing():
        hosts = _check_named(Host.objects.filter(removed_at=None), new.hosts, "host")
        profiles = _check_named(ModelProfile.objects.all(), new.profiles, "profile")
        row = ApiKey.objects.create(
            name=name,
            prefix=token[:SHOWN],
            sha256=digest_of(token),
            all_hosts=not new.hosts,
            all_profiles=not new.profiles,
            manage=new.manage,
            requests_a_minute=new.requests_a_minute,
            at_once=new.at_once,
            expires_at=new.expires_at,
            made_at=clock.now(),
            made_by=actor.name,
        )
        row.hosts.set(hosts)
        row.profiles.set(profiles)
        append(
            "key.made",
            actor,
            clock=clock,
            key=row.pk,
            name=name,
            prefix=row.prefix,
            hosts=sorted(new.hosts),
            profiles=sorted(new.profiles),
            manage=new.manage,
            requests_a_minute=new.requests_a_minute,
            at_once=new.at_once,
            expires_at=new.expires_at,
        )
    return row.pk, token


def turn_off(key_id: int, actor: Actor, clock: Clock = system) -> None:
    """Nobody gets in with it any more, from the next look of each gateway process on. For good:
    who may come again gets a new key."""
    with writing():
        row = ApiKey.objects.select_for_update().filter(pk=key_id).first()
        if row is None:
            raise NotFound("There is no such key.")
        if row.off_at is not None:
            raise Conflict(f"{row.name} is off already.")
        row.off_at = clock.now()
        row.save(update_fields=["off_at"])
        append("key.off", actor, clock=clock, key=row.pk, name=row.name, prefix=row.prefix)


def refused(token: str, actor: Actor, more: int = 0, clock: Clock = system) -> None:
    """Somebody came with a key that does not work. Nothing of what they sent is kept, unless it is
    a key that once did: then its name. `more`: as many went before and were not told."""
    with writing():
        row = ApiKey.objects.filter(sha256=digest_of(token)).first()
        why = "no such key"
        if row is not None:
            why = "it is off" if row.off_at is not None else "it has expired"
        about: dict[str, Any] = {}
        if row is not None:
            about = {"key": row.pk, "name": row.name, "prefix": row.prefix}
        append("key.refused", actor, clock=clock, why=why, more=more, **about)


def _check_named(rows: QuerySet[Any], names: Iterable[str], what: str) -> list[Any]:
    found = {row.name: row for row in rows.filter(name__in=list(names))}
    missing = sorted(set(names) - found.keys())
    if missing:
        raise NotFound(f"There is no {what} named {missing[0]!r}.")
    return list(found.values())
