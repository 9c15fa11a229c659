"""The form for what the clients of a host get: its policy, and names that stand for profiles."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from django.http import QueryDict

from switcher.domain.errors import BadRequest
from switcher.records.clients import MAX_NAMES, POLICIES, TWICE

POLICY_CHOICES = (
    ("active", "The active model, whatever they name"),
    ("names", "By name: a name below gets its profile, any other the active model"),
    ("strict", "By name only: a name below or the active model's own; any other gets a 404"),
)
SPARE_ROWS = 2


@dataclass(frozen=True, slots=True)
class NameRow:
    """A name and its profile as typed. `number` counts from 1."""

    number: int
    name: str
    profile: str


class ClientsForm:
    """A policy and rows of names, as typed; rows without a name are ignored.

    `records` decides what is valid. Only the rows themselves are checked here.
    """

    choices = POLICY_CHOICES

    def __init__(
        self, policy: str, names: Iterable[tuple[str, str]], profiles: tuple[str, ...]
    ) -> None:
        self.policy = policy
        self.profiles = profiles
        typed = [(name, profile) for name, profile in names if name]
        spare = [("", "")] * max(0, min(SPARE_ROWS, MAX_NAMES - len(typed)))
        self.rows = [NameRow(n, *pair) for n, pair in enumerate([*typed, *spare], start=1)]
        self.error = ""
        self.field = ""

    @classmethod
    def sent(cls, data: QueryDict, profiles: tuple[str, ...]) -> ClientsForm:
        """Return the form as submitted."""
        names = [name.strip() for name in data.getlist("name")]
        chosen = data.getlist("profile")[: len(names)]
        chosen += [""] * (len(names) - len(chosen))
        pairs = list(zip(names, chosen, strict=True))[: MAX_NAMES + 1]
        return cls(data.get("policy", ""), pairs, profiles)

    def values(self) -> tuple[str, dict[str, str]]:
        """Return the policy and the profile of each name. Raises BadRequest."""
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

    def add_error(self, exc: BadRequest) -> None:
        """Show the error next to its field."""
        self.error, self.field = exc.text, exc.field or ""
