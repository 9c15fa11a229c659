"""Forms of the pages. They read input; `domain.specs` and `records` decide what is valid."""

from __future__ import annotations

from django import forms

from switcher.domain.errors import BadRequest, SwitcherError


def add_error(form: forms.Form, exc: SwitcherError) -> None:
    """Show why nothing was saved: next to the field, or above the form."""
    field = exc.field if isinstance(exc, BadRequest) else None
    form.add_error(field if field in form.fields else None, exc.text)
