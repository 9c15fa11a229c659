"""Logins: who came and went, who did not get in, and who is kept out for a while.

People type passwords where names belong. So a name that is no account is kept nowhere: the trail
says "unknown account", and failures are counted under keyed hashes of what was typed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db.models import F, Q
from django.utils.crypto import salted_hmac

from switcher.audit.ledger import Actor, append, origin_of, writing
from switcher.domain.clock import Clock, system
from switcher.models import FailedLogin

# No account is named so: a user name has no space.
UNKNOWN = "unknown account"

# How many failures there may be, in so many times of the setting: of one name from one address, of
# one address whatever the name (an office has one), of one name wherever from.
PAIR, ADDRESS, NAME = "name and address", "address", "name"
LIMITS = {PAIR: 1, ADDRESS: 5, NAME: 10}


@dataclass(frozen=True, slots=True)
class Lock:
    """Nobody gets in before `until`: by `rule`, one of LIMITS."""

    until: datetime
    rule: str


def lock_of(name: str, ip: str | None, clock: Clock = system) -> Lock | None:
    """What keeps this name from being tried from this address, if anything does."""
    name_key, address_key = _keys(name, ip)
    since = clock.now() - _span()
    wanted = Q(name_key=name_key) | (Q(address_key=address_key) if address_key else Q(pk=None))
    rows = list(FailedLogin.objects.filter(wanted, last_at__gt=since).order_by("last_at"))
    of_name = [row for row in rows if row.name_key == name_key]
    of_address = [row for row in rows if address_key and row.address_key == address_key]
    counted = {
        PAIR: [row for row in of_name if row.address_key == address_key],
        ADDRESS: of_address,
        NAME: of_name,
    }
    locks = [Lock(until, rule) for rule in LIMITS if (until := _until(rule, counted[rule]))]
    return max(locks, key=lambda lock: lock.until, default=None)


def _until(rule: str, rows: Iterable[FailedLogin]) -> datetime | None:
    """When so many of these, the oldest first, have ceased to count that less than the limit are
    left; None if that is so now."""
    rows = list(rows)
    left, until = sum(row.failures for row in rows), None
    for row in rows:
        if left < LIMITS[rule] * settings.SWITCHER_LOGIN_FAILURES:
            break
        left, until = left - row.failures, row.last_at + _span()
    return until


def _span() -> timedelta:
    """How long a failure counts, and a lockout lasts."""
    return timedelta(minutes=settings.SWITCHER_LOGIN_LOCKOUT_MINUTES)


def _keys(name: str, ip: str | None) -> tuple[str, str]:
    """Hashes that nobody can try words against who has no more than the database. The address is
    empty where there is none; one of IPv6 counts by its network, which a person has whole."""
    network = str(ipaddress.ip_network(f"{ip}/64", strict=False)) if ip and ":" in ip else ip
    return _hash("name", name), _hash("address", network) if network else ""


def _hash(what: str, value: str) -> str:
    return salted_hmac(f"switcher.login.{what}", value, algorithm="sha256").hexdigest()


def failed(name: str, actor: Actor, clock: Clock = system) -> Lock | None:
    """Somebody did not get in under this name: counted and told in one transaction. `actor` says
    from where; its name counts for nothing. Gives the lockout that this led to, if it did.

    The entry's actor is the account that was tried, which nobody has proven to be.
    """
    with writing():
        lock = lock_of(name, actor.ip, clock)
        if lock is not None:
            return lock  # of many at once, those behind the last that counted
        active = _account(name)
        actor = replace(actor, name=UNKNOWN if active is None else name)
        why = {None: "no such account", True: "wrong password", False: "switched off"}[active]
        origin = origin_of(actor)
        append("login.failed", actor, origin=origin, clock=clock, why=why)
        _count(name, actor.ip, clock)
        lock = lock_of(name, actor.ip, clock)
        if lock is not None:
            append(
                "login.locked-out",
                actor,
                origin=origin,
                clock=clock,
                locked=lock.rule,
                until=lock.until,
            )
        return lock


def _account(name: str) -> bool | None:
    """Whether this account is active; None if it is none."""
    users = get_user_model()._default_manager.filter(**{get_user_model().USERNAME_FIELD: name})
    return users.values_list("is_active", flat=True).first()


def _count(name: str, ip: str | None, clock: Clock) -> None:
    now = clock.now()
    FailedLogin.objects.filter(last_at__lte=now - _span()).delete()
    name_key, address_key = _keys(name, ip)
    rows = FailedLogin.objects.filter(name_key=name_key, address_key=address_key)
    if not rows.update(failures=F("failures") + 1, last_at=now):
        FailedLogin.objects.create(
            name_key=name_key, address_key=address_key, failures=1, last_at=now
        )


def succeeded(actor: Actor, clock: Clock = system) -> None:
    """A person signed in. Their own failures from there count no more."""
    with writing():
        append("login.succeeded", actor, clock=clock)
        name_key, address_key = _keys(actor.name, actor.ip)
        FailedLogin.objects.filter(name_key=name_key, address_key=address_key).delete()


def ended(actor: Actor, clock: Clock = system) -> None:
    """A person signed out."""
    with writing():
        append("login.ended", actor, clock=clock)


def unlock(name: str | None, ip: str | None, actor: Actor, either: bool = False) -> int:
    """Forget failures: of a name, of an address, of that name from there (or, with `either`, of
    each of both), or all. Gives how many counts that were."""
    name_key, address_key = _keys(name or "", ip)
    conditions = [Q(name_key=name_key)] if name else []
    conditions += [Q(address_key=address_key)] if ip else []
    wanted = Q()
    for condition in conditions:
        wanted = wanted | condition if either else wanted & condition
    with writing():
        many, _ = FailedLogin.objects.filter(wanted).delete()
        if many:
            known = name if name and _account(name) is not None else None
            append("login.unlocked", actor, account=known, by_address=bool(ip), counts=many)
    return many
