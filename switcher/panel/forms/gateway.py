"""The forms for a new API key, and for what the clients of a host get."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, time
from typing import Any

from django import forms
from django.http import QueryDict

from switcher.domain.errors import BadRequest
from switcher.presentation.clients import LIMIT_WORDS
from switcher.records.clients import MAX_NAMES, POLICIES, TWICE
from switcher.records.keys import NewKey

POLICY_CHOICES = (
    ("active", "The active model, whatever they name"),
    ("names", "By name: each name below gets its profile, any other name the active model"),
    ("strict", "By name only: the names below and the active model's own; any other gets a 404"),
)
SPARE_ROWS = 2


class KeyForm(forms.Form):
    """A form for what a key may do. An empty field sets no limit."""

    name = forms.CharField(
        label="Name", max_length=60, help_text="Who or what uses it, for example chat-ui."
    )
    hosts = forms.MultipleChoiceField(
        label="Hosts",
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Choose none to allow all hosts.",
    )
    profiles = forms.MultipleChoiceField(
        label="Profiles",
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text="Choose none to allow any model; otherwise the key is accepted only if one of "
        "these profiles answers.",
    )
    requests_a_minute = forms.IntegerField(
        label="Maximum requests per minute",
        required=False,
        min_value=1,
        max_value=1_000_000,
        help_text=LIMIT_WORDS,
    )
    at_once = forms.IntegerField(
        label="Maximum concurrent requests",
        required=False,
        min_value=1,
        max_value=10_000,
        help_text="Divided among the gateway processes in the same way.",
    )
    expires_on = forms.DateField(
        label="Last day",
        required=False,
        widget=forms.DateInput(attrs={"type": "date"}),
        help_text="The key works until the end of that day (UTC).",
    )
    manage = forms.BooleanField(
        label="May change hosts",
        required=False,
        help_text="Pull, delete, create, copy and push models through the gateway.",
    )
    may_switch = forms.BooleanField(
        label="May switch models",
        required=False,
        help_text="Switch the active model of its hosts through the API, to its profiles.",
    )

    def __init__(self, *args: Any, hosts: list[str], profiles: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, choices in (("hosts", hosts), ("profiles", profiles)):
            field = self.fields[name]
            assert isinstance(field, forms.MultipleChoiceField)
            field.choices = [(choice, choice) for choice in choices]

    @property
    def scopes(self) -> list[forms.BoundField]:
        """Return the fields that restrict what the key may use."""
        return [self["hosts"], self["profiles"]]

    def to_new_key(self) -> NewKey:
        """Return the key that the valid form describes."""
        values = dict(self.cleaned_data)
        day = values.pop("expires_on")
        scopes = {name: tuple(values[name]) for name in ("hosts", "profiles")}
        expires_at = datetime.combine(day, time.max, UTC) if day else None
        return NewKey(**values | scopes, expires_at=expires_at)


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
        self.rows = [*typed, *[("", "")] * min(SPARE_ROWS, MAX_NAMES - len(typed))]
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
        for name, profile in self.rows:
            if name and not profile:
                raise BadRequest(f"Choose a profile for {name}, or clear the name.", "names")
            if name in names:
                raise BadRequest(TWICE.format(name=name), "names")
            if name:
                names[name] = profile
        return self.policy, names

    def add_error(self, exc: BadRequest) -> None:
        """Show the error next to its field."""
        self.error, self.field = exc.text, exc.field or ""
