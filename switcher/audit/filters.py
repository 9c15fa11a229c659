"""What the audit trail is narrowed to: by a page's address, the API and the command alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta

from switcher.domain.clock import read_moment
from switcher.domain.errors import BadRequest
from switcher.domain.states import ENDED

# Groups of kinds, by how their names begin; of two that fit, the first.
GROUPS: dict[str, tuple[str, ...]] = {
    "switches": ("switch.", "host.activated", "handle.", "ghost.", "name."),
    "drift": ("drift.", "repair."),
    "configuration": ("host.", "profile.", "policy."),
    "people": ("user.", "group.", "login.", "key."),
    "audit": ("audit.",),
    "server": ("server.",),
}
_OUTCOMES = sorted(state.value for state in ENDED)
_EXAMPLE = "2026-11-24 or 2026-11-24T14:05"
MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class Filters:
    """What is looked for; empty means any. `kind` is a kind or a group of kinds; of `text` every
    word has to be in the reason. Times are aware, both ends belong to the range."""

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
        """Those that are set, as text: for an entry, for the head of an export, for an address."""
        told = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, datetime):
                told[field.name] = value.astimezone(UTC).isoformat().replace("+00:00", "Z")
            elif value:
                told[field.name] = "yes" if value is True else value
        return told


NAMES = tuple(field.name for field in fields(Filters))


def group_of(kind: str) -> str:
    """The group of a kind; empty for one that is in none."""
    return next((g for g, starts in GROUPS.items() if kind.startswith(starts)), "")


def read_filters(values: Mapping[str, str]) -> Filters:
    """Filters from plain text, as an address has them. Raises BadRequest, which names the field."""
    given = {name: values.get(name, "").strip()[:MAX_TEXT] for name in NAMES}
    if given["outcome"] and given["outcome"] not in _OUTCOMES:
        raise BadRequest(f"An outcome is one of {', '.join(_OUTCOMES)}.", "outcome")
    return Filters(
        host=given["host"],
        model=given["model"],
        actor=given["actor"],
        kind=given["kind"],
        outcome=given["outcome"],
        since=moment(given["since"], "since") if given["since"] else None,
        until=moment(given["until"], "until", last=True) if given["until"] else None,
        text=given["text"],
        unreviewed=given["unreviewed"].lower() in {"1", "yes", "true", "on"},
    )


def read_what_can_be(values: Mapping[str, str]) -> tuple[Filters, dict[str, str]]:
    """The same for a page, which shows what it can: a field that cannot be read counts as any.
    With the reasons, by field."""
    left, errors = dict(values), dict[str, str]()
    while True:
        try:
            return read_filters(left), errors
        except BadRequest as exc:
            errors[exc.field] = exc.text
            left.pop(exc.field)


def moment(text: str, field: str = "at", last: bool = False) -> datetime:
    """A date, or a date and a time; UTC unless it says otherwise. With `last` its last moment: the
    end of the day, hour, minute or second that it names. Raises BadRequest."""
    try:
        at = read_moment(text)
        return at + _rest_of(text) if last and not at.microsecond else at
    except (ValueError, OverflowError) as exc:
        raise BadRequest(f"Write a time as {_EXAMPLE}, in UTC.", field) from exc


# Behind the date, however the two are written and parted: hour, and what is named with it.
_TIME = re.compile(r"[^\dW-](\d\d)(:?\d\d)?(:?\d\d)?")


def _rest_of(text: str) -> timedelta:
    """How much longer what a text names lasts: a day, an hour, a minute or a second. Raises
    ValueError."""
    return _lasts(text) - timedelta(microseconds=1)


def _lasts(text: str) -> timedelta:
    named = _TIME.search(text)
    if named is None:
        date.fromisoformat(text)  # a day, and nothing else
        return timedelta(days=1)
    if named[2] is None:
        return timedelta(hours=1)
    return timedelta(minutes=1) if named[3] is None else timedelta(seconds=1)
