"""Creates frozen dataclasses from rows and other dataclasses."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def from_row(kind: type[T], row: Any, /, **values: Any) -> T:
    """Return a dataclass from `values`, and otherwise from the row's columns of the same names."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: values[name] if name in values else getattr(row, name) for name in names})
