"""The form that requests a switch, and the filters of the list of switches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, time
from typing import Any

from django import forms

from switcher.presentation.board import Board
from switcher.queries.switches import OUTCOMES, Filters
from switcher.switching.service import SwitchRequest


def sent_request(data: Mapping[str, str]) -> SwitchRequest:
    """Return the request in a query string or a form, unchecked: the service checks it, as it does
    for every client."""
    names = ("host", "reason", "strategy", "keep_alive", "num_ctx")
    values = {name: data.get(name, "").strip() for name in names}
    return SwitchRequest(**values, **_chosen(data.get("profile", "").strip()))


def completed(request: SwitchRequest, board: Board) -> SwitchRequest:
    """Return the request, with the most likely host and model filled in where it names none."""
    host = request.host or _default_host(board)
    chosen = {} if request.model or request.profile else _chosen(_default_model(board, host))
    return replace(request, host=host, **chosen)


def _chosen(value: str) -> dict[str, str]:
    """Return the profile or the model that a Choice stands for."""
    is_model = value.startswith("=")
    return {"model": value.removeprefix("=")} if is_model else {"profile": value}


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
        data = dict(self.cleaned_data)
        since, until = _at(data.get("since"), time.min), _at(data.get("until"), time.max)
        text = data.pop("q", "")
        return Filters(**data | {"since": since, "until": until, "text": text})


def _at(day: Any, moment: time) -> datetime | None:
    return datetime.combine(day, moment, tzinfo=UTC) if day else None
