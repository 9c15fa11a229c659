"""The form that requests a switch, and the filters of the list of switches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from typing import Any

from django import forms

from switcher.presentation.board import Board
from switcher.queries.switches import OUTCOMES, Filters
from switcher.switching.service import SwitchRequest


@dataclass(frozen=True, slots=True)
class SwitchChoice:
    """The choices in the switch form, unchecked: the service checks them, as for every client.

    `model` is the name of a profile, or `=` followed by a model's name.
    """

    host: str = ""
    model: str = ""
    reason: str = ""
    strategy: str = ""
    keep_alive: str = ""

    @classmethod
    def sent(cls, data: Mapping[str, str]) -> SwitchChoice:
        """Return the choice in a query string or a form."""
        return cls(
            host=data.get("host", "").strip(),
            model=data.get("profile", "").strip(),
            reason=data.get("reason", "").strip(),
            strategy=data.get("strategy", "").strip(),
            keep_alive=data.get("keep_alive", "").strip(),
        )

    def completed(self, board: Board) -> SwitchChoice:
        """Return the choice with the most likely host and model where none was sent."""
        host = self.host or _default_host(board)
        return replace(self, host=host, model=self.model or _default_model(board, host))

    def to_request(self) -> SwitchRequest:
        """Return the request to the service."""
        is_profile = not self.model.startswith("=")
        return SwitchRequest(
            model="" if is_profile else self.model.removeprefix("="),
            profile=self.model if is_profile else "",
            host=self.host,
            reason=self.reason,
            strategy=self.strategy,
            keep_alive=self.keep_alive,
        )


def _default_host(board: Board) -> str:
    return next((h.name for h in board.hosts if h.is_default), board.hosts[0].name)


def _default_model(board: Board, host: str) -> str:
    """Return the first installed model that is not loaded, so that a switch to it changes
    something.
    """
    row = next((h for h in board.hosts if h.name == host), None)
    choices = (*board.profiles, *board.models)
    other = [c for c in choices if row and c.model != row.model and c.model in row.on_disk]
    return next((c.value for c in (*other, *choices)), "")


class SwitchFilterForm(forms.Form):
    """Filters of the list of switches. They are kept in the address."""

    host = forms.CharField(required=False)
    model = forms.CharField(required=False)
    who = forms.CharField(required=False)
    outcome = forms.ChoiceField(required=False, choices=[("", "Any"), *((o, o) for o in OUTCOMES)])
    since = forms.DateField(required=False)
    until = forms.DateField(required=False)
    q = forms.CharField(required=False)

    def filters(self) -> Filters:
        """Return the filters. Values that cannot be read are ignored."""
        self.is_valid()
        data = getattr(self, "cleaned_data", {})
        return Filters(
            host=data.get("host", ""),
            model=data.get("model", ""),
            who=data.get("who", ""),
            outcome=data.get("outcome", ""),
            since=_at(data.get("since"), time.min),
            until=_at(data.get("until"), time.max),
            text=data.get("q", ""),
        )


def _at(day: Any, moment: time) -> datetime | None:
    return datetime.combine(day, moment, tzinfo=UTC) if day else None
