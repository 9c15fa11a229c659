"""API keys of the gateway. A key is shown once, and only its SHA-256 is stored."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import QuerySet

from switcher.access import KEY_PREFIX
from switcher.audit.ledger import Actor, append, writing
from switcher.domain.clock import Clock, system
from switcher.domain.errors import BadRequest, Conflict, NotFound
from switcher.models import ApiKey, Host, ModelProfile

VISIBLE_CHARS = 10  # first characters of a key, by which people recognise it


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to make. No hosts or profiles means all of them; None means no limit."""

    name: str
    hosts: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    manage: bool = False
    may_switch: bool = False
    fallback: tuple[str, ...] = ()
    requests_a_minute: int | None = None
    at_once: int | None = None
    expires_at: datetime | None = None


def digest_of(token: str) -> str:
    """Return the hash of a key, which is stored in its place. A key has 256 random bits, so it
    needs no salt or slow hash."""
    return hashlib.sha256(token.encode()).hexdigest()


def make_key(new: NewKey, actor: Actor, clock: Clock = system) -> tuple[int, str]:
    """Make a key, and return its id and the key itself, which cannot be shown again.

    Raises BadRequest, NotFound for a host or profile that does not exist.
    """
    _check(new, clock)
    token = KEY_PREFIX + secrets.token_urlsafe(32)
    described: dict[str, Any] = {
        "name": new.name.strip(),
        "prefix": token[:VISIBLE_CHARS],
        "manage": new.manage,
        "may_switch": new.may_switch,
        "fallback": list(new.fallback),
        "requests_a_minute": new.requests_a_minute,
        "at_once": new.at_once,
        "expires_at": new.expires_at,
    }
    with writing():
        hosts = _find_all(Host.objects.filter(removed_at=None), new.hosts, "host")
        profiles = _find_all(ModelProfile.objects.all(), new.profiles, "profile")
        _find_all(ModelProfile.objects.all(), new.fallback, "profile")
        row = ApiKey.objects.create(
            sha256=digest_of(token),
            all_hosts=not new.hosts,
            all_profiles=not new.profiles,
            made_at=clock.now(),
            made_by=actor.name,
            **described,
        )
        row.hosts.set(hosts)
        row.profiles.set(profiles)
        append(
            "key.made",
            actor,
            clock=clock,
            key=row.pk,
            hosts=sorted(new.hosts),
            profiles=sorted(new.profiles),
            **described,
        )
    return row.pk, token


def _check(new: NewKey, clock: Clock) -> None:
    name = new.name.strip()
    if not name or len(name) > 60 or not name.isprintable():
        raise BadRequest("Give the key a name of at most 60 characters.", "name")
    if new.profiles and not set(new.fallback) <= set(new.profiles):
        raise BadRequest("A key falls back only to profiles that it is valid for.", "fallback")
    if new.expires_at is not None and new.expires_at <= clock.now():
        raise BadRequest("That time is in the past.", "expires_at")


def turn_off(key_id: int, actor: Actor, clock: Clock = system) -> None:
    """Turn a key off for good. Each gateway process refuses it once it has read the keys again.

    Raises NotFound, Conflict if it is off already.
    """
    with writing():
        row = ApiKey.objects.select_for_update().filter(pk=key_id).first()
        if row is None:
            raise NotFound("There is no such key.")
        if row.off_at is not None:
            raise Conflict(f"{row.name} is already off.")
        row.off_at = clock.now()
        row.save(update_fields=["off_at"])
        append("key.off", actor, clock=clock, key=row.pk, name=row.name, prefix=row.prefix)


def record_refused(token: str, actor: Actor, left_out: int = 0, clock: Clock = system) -> None:
    """Record that a client came with a key that does not work.

    What the client sent is not stored, but the entry names the key if it once worked. `left_out` is
    how many earlier attempts were not recorded.
    """
    with writing():
        row = ApiKey.objects.filter(sha256=digest_of(token)).first()
        if row is None:
            append("key.refused", actor, clock=clock, why="no such key", more=left_out)
            return
        why = "it is off" if row.off_at is not None else "it has expired"
        append(
            "key.refused",
            actor,
            clock=clock,
            why=why,
            more=left_out,
            key=row.pk,
            name=row.name,
            prefix=row.prefix,
        )


def _find_all(rows: QuerySet[Any], names: Iterable[str], what: str) -> list[Any]:
    found = {row.name: row for row in rows.filter(name__in=list(names))}
    missing = sorted(set(names) - found.keys())
    if missing:
        raise NotFound(f"There is no {what} named {missing[0]!r}.")
    return list(found.values())
