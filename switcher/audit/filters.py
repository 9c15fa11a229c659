"""The filters of the audit trail, shared by pages, API and command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta

from switcher.domain.clock import read_moment
from switcher.domain.errors import BadRequest
from switcher.domain.states import ENDED

# Groups of kinds by the beginnings of their names; a kind belongs to the first that fits.
GROUPS: dict[str, tuple[str, ...]] = {
    "switches": ("switch.", "host.activated", "host.unloaded", "handle.", "ghost.", "name."),
    "drift": ("drift.", "repair."),
    "configuration": ("host.", "profile.", "policy."),
    "people": ("user.", "group.", "login.", "key."),
    "audit": ("audit.",),
    "server": ("server.",),
}
_OUTCOMES = sorted(state.value for state in ENDED)
MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class Filters:
    """A filter of entries; an empty one matches everything.

    `kind` is a kind or a group of kinds. Every word of `text` has to be in the reason. `since` and
    `until` are aware and inclusive.
    """

    host: str = ""
    model: str = ""
    actor: str = ""
    kind: str = ""
    outcome: str = ""
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""
    unreviewed: bool = False

    @property
    def active(self) -> bool:
        return self != Filters()

    def to_dict(self) -> dict[str, str]:
        """Return the filters that are set, as text: for an entry, the head of an export or an
        address."""
        found = {}
        for name in NAMES:
            value = getattr(self, name)
            if isinstance(value, datetime):
                found[name] = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
            elif value:
                found[name] = "yes" if value is True else value
        return found


NAMES = tuple(field.name for field in fields(Filters))


def group_of(kind: str) -> str:
    """Return the group of a kind, or an empty text."""
    return next((g for g, starts in GROUPS.items() if kind.startswith(starts)), "")


def read_filters(values: Mapping[str, str]) -> Filters:
    """Read filters from text. Raises BadRequest with the name of the field."""
    given = {name: values.get(name, "").strip()[:MAX_TEXT] for name in NAMES}
    since, until, unreviewed = (given.pop(name) for name in ("since", "until", "unreviewed"))
    if given["outcome"] and given["outcome"] not in _OUTCOMES:
        raise BadRequest(f"An outcome is one of {', '.join(_OUTCOMES)}.", "outcome")
    return Filters(
        **given,
        since=read_time(since, "since") if since else None,
        until=read_time(until, "until", end=True) if until else None,
        unreviewed=unreviewed.lower() in {"1", "yes", "true", "on"},
    )


def read_valid_filters(values: Mapping[str, str]) -> tuple[Filters, dict[str, str]]:
    """Read the filters that are valid, for a page, and return what is wrong with the others, by
    field."""
    valid, errors = dict(values), dict[str, str]()
    while True:
        try:
            return read_filters(valid), errors
        except BadRequest as exc:
            errors[exc.field] = exc.text
            valid.pop(exc.field)


def read_time(text: str, field: str = "at", end: bool = False) -> datetime:
    """Read a date, or a date and a time, in UTC unless it has an offset.

    With `end`, return the last moment of the day, hour, minute or second that the text names.
    Raises BadRequest.
    """
    try:
        at = read_moment(text)
        if not end or at.microsecond:
            return at
        return at + (
            _period(text) - timedelta(microseconds=1)
        )  # in this order: within the year 9999
    except (ValueError, OverflowError) as exc:
        example = "2026-11-24 or 2026-11-24T14:05"
        raise BadRequest(f"Write a time as {example}, in UTC.", field) from exc


# The time of day after the date, in any ISO 8601 form: hour, minute, second.
_TIME = re.compile(r"[^\dW-](\d\d)(:?\d\d)?(:?\d\d)?")


def _period(text: str) -> timedelta:
    """Return the length of the day, hour, minute or second that a text names. Raises ValueError."""
    named = _TIME.search(text)
    if named is None:
        date.fromisoformat(text)  # a day only
        return timedelta(days=1)
    if named[2] is None:
        return timedelta(hours=1)
    return timedelta(minutes=1) if named[3] is None else timedelta(seconds=1)
