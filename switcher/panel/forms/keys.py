"""The form for a new API key."""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any

from django import forms

from switcher.presentation.wording import LIMIT_WORDS
from switcher.records.keys import NewKey


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
        help_text="Choose none to allow any active model; otherwise the key works only while one "
        "of these profiles answers.",
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
