"""Validation that several forms share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms

from switcher.domain.errors import BadRequest
from switcher.domain.specs import check_name


def validated(check: Callable[[Any], Any], value: Any) -> Any:
    """Return the value as a check of `specs` returns it. Its BadRequest becomes a form error."""
    try:
        return check(value)
    except BadRequest as exc:
        raise forms.ValidationError(exc.text) from exc


def valid_name(name: str) -> None:
    """Validate the name of a host or a profile."""
    validated(check_name, name)
