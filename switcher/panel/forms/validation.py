"""Validation that several forms share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.core.validators import RegexValidator

from switcher.domain.errors import BadRequest

NAME = RegexValidator(
    r"^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$",
    "Use lower-case letters, digits and hyphens, for example north-1.",
)


def validated(check: Callable[[Any], Any], value: Any) -> Any:
    """Return the value as a check of `specs` returns it. Its BadRequest becomes a form error."""
    try:
        return check(value)
    except BadRequest as exc:
        raise forms.ValidationError(exc.text) from exc
