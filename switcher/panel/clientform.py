"""The form for what clients of a host get: its policy, and rows of names with their profiles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from switcher.domain.errors import BadRequest
from switcher.records.clients import MAX_NAMES, POLICIES, TWICE

CHOICES = (
    ("active", "The active model, whatever they name"),
    ("names", "By name: a name below gets its profile, any other the active model"),
    ("strict", "By name alone: a name below or the active model's own; any other is a 404"),
)
SPARE_ROWS = 2


@dataclass(frozen=True, slots=True)
class NameRow:
    """A name and its profile as they were written. `number` counts from 1."""

    number: int
    name: str
    profile: str


class ClientsForm:
    """What was written; a row without a name is left out. What is valid is decided by `records`,
    the same for every entrance, but for what only rows can have wrong."""

    choices = CHOICES

    def __init__(
        self, policy: str, names: Iterable[tuple[str, str]], profiles: tuple[str, ...]
    ) -> None:
        self.policy = policy
        self.profiles = profiles
        written = [(name, profile) for name, profile in names if name]
        spare = [("", "")] * max(0, min(SPARE_ROWS, MAX_NAMES - len(written)))
        self.rows = [NameRow(n, *pair) for n, pair in enumerate([*written, *spare], start=1)]
        self.error = ""
        self.field = ""

    @classmethod
    def sent(cls, data: Any, profiles: tuple[str, ...]) -> ClientsForm:
        names = [name.strip() for name in data.getlist("name")]
        meant = data.getlist("profile")[: len(names)]
        meant += [""] * (len(names) - len(meant))
        pairs = list(zip(names, meant, strict=True))[: MAX_NAMES + 1]
        return cls(data.get("policy", ""), pairs, profiles)

    def values(self) -> tuple[str, dict[str, str]]:
        """Policy and names. Raises BadRequest."""
        if self.policy not in POLICIES:
            raise BadRequest("Choose one of the three.", "policy")
        names: dict[str, str] = {}
        for row in self.rows:
            if row.name and not row.profile:
                raise BadRequest(f"Choose a profile for {row.name}, or clear the name.", "names")
            if row.name in names:
                raise BadRequest(TWICE.format(name=row.name), "names")
            if row.name:
                names[row.name] = row.profile
        return self.policy, names

    def refuse(self, exc: BadRequest) -> None:
        """Show what is wrong beside its field."""
        self.error, self.field = exc.text, exc.field or ""
