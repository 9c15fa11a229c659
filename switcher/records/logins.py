"""Logins: records sign-ins, sign-outs and failures, and locks out after too many failures.

People type passwords into the name field. So a name without an account is never stored: its entry
says "unknown account", and failures are counted under keyed hashes.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db.models import F, Q
from django.utils.crypto import salted_hmac

from switcher.audit.ledger import Actor, append, origin_of, writing
from switcher.domain.clock import Clock, system
from switcher.models import FailedLogin

# Not a possible account name: user names contain no spaces.
UNKNOWN = "unknown account"

# Which failures are counted together, and the multiple of the setting that is allowed: by name and
# address, by address (an office shares one), and by name.
PAIR, ADDRESS, NAME = "name and address", "address", "name"
LIMITS = {PAIR: 1, ADDRESS: 5, NAME: 10}


@dataclass(frozen=True, slots=True)
class Lockout:
    """A lockout until `until`; `rule` is one of LIMITS."""

    until: datetime
    rule: str


def lockout_of(name: str, ip: str | None, clock: Clock = system) -> Lockout | None:
    """Return the lockout of this name at this address that ends last, or None."""
    name_key, address_key = _keys(name, ip)
    since = clock.now() - _span()
    either = Q(name_key=name_key) | (Q(address_key=address_key) if address_key else Q(pk=None))
    rows = list(FailedLogin.objects.filter(either, last_at__gt=since).order_by("last_at"))
    of_name = [row for row in rows if row.name_key == name_key]
    counted = {
        PAIR: [row for row in of_name if row.address_key == address_key],
        ADDRESS: [row for row in rows if address_key and row.address_key == address_key],
        NAME: of_name,
    }
    lockouts = [Lockout(until, rule) for rule in LIMITS if (until := _end(rule, counted[rule]))]
    return max(lockouts, key=lambda lockout: lockout.until, default=None)


def _end(rule: str, rows: list[FailedLogin]) -> datetime | None:
    """Return when the lockout ends: when enough of the oldest failures have expired. `rows` are
    sorted by time."""
    left, until = sum(row.failures for row in rows), None
    for row in rows:
        if left < LIMITS[rule] * settings.SWITCHER_LOGIN_FAILURES:
            break
        left, until = left - row.failures, row.last_at + _span()
    return until


def _span() -> timedelta:
    """Return how long a failure counts, which is also how long a lockout lasts."""
    return timedelta(minutes=settings.SWITCHER_LOGIN_LOCKOUT_MINUTES)


def _keys(name: str, ip: str | None) -> tuple[str, str]:
    """Return keyed hashes of the name and the address, which cannot be guessed from the database
    alone.

    The second is empty without an address. IPv6 addresses are counted by their /64 network, since
    one person may own all of it.
    """
    network = str(ipaddress.ip_network(f"{ip}/64", strict=False)) if ip and ":" in ip else ip
    return _hash("name", name), _hash("address", network) if network else ""


def _hash(what: str, value: str) -> str:
    return salted_hmac(f"switcher.login.{what}", value, algorithm="sha256").hexdigest()


def failed(name: str, actor: Actor, clock: Clock = system) -> Lockout | None:
    """Count and record a failed login, and return the current lockout, if any.

    Only the address and browser of `actor` are used. The entry's actor is the account whose name
    was entered, although nobody has proved to be that person. During a lockout nothing is counted
    or recorded.
    """
    with writing():
        lockout = lockout_of(name, actor.ip, clock)
        if lockout is not None:
            return lockout  # a concurrent attempt, after the last one that counted
        active = _is_active(name)
        actor = replace(actor, name=UNKNOWN if active is None else name)
        why = {None: "no such account", True: "wrong password", False: "switched off"}[active]
        origin = origin_of(actor)
        append("login.failed", actor, origin=origin, clock=clock, why=why)
        _count(name, actor.ip, clock)
        lockout = lockout_of(name, actor.ip, clock)
        if lockout is not None:
            append(
                "login.locked-out",
                actor,
                origin=origin,
                clock=clock,
                locked=lockout.rule,
                until=lockout.until,
            )
        return lockout


def _is_active(name: str) -> bool | None:
    """Return whether this account is active; None if there is none."""
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
    """Record that a person signed in, and forget their failures from that address."""
    with writing():
        append("login.succeeded", actor, clock=clock)
        name_key, address_key = _keys(actor.name, actor.ip)
        FailedLogin.objects.filter(name_key=name_key, address_key=address_key).delete()


def ended(actor: Actor, clock: Clock = system) -> None:
    """Record that a person signed out."""
    with writing():
        append("login.ended", actor, clock=clock)


def unlock(name: str | None, ip: str | None, actor: Actor) -> int:
    """Forget the failures of a name, of an address, of a name from an address, or all. Return how
    many counts were removed.
    """
    name_key, address_key = _keys(name or "", ip)
    rows = FailedLogin.objects.all()
    rows = rows.filter(name_key=name_key) if name else rows
    rows = rows.filter(address_key=address_key) if ip else rows
    with writing():
        count, _ = rows.delete()
        if count:
            known = name if name and _is_active(name) is not None else None
            append("login.unlocked", actor, account=known, by_address=bool(ip), counts=count)
    return count
