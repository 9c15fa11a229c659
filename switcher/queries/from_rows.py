"""Creates frozen dataclasses from rows and from other dataclasses, and groups values by key."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

K = TypeVar("K")
T = TypeVar("T")


def from_row(kind: type[T], row: Any, /, **values: Any) -> T:
    """Return a dataclass whose fields come from `values` or else from the row's columns of the same
    names."""
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: values[name] if name in values else getattr(row, name) for name in names})


def grouped(pairs: Iterable[tuple[K, T]]) -> defaultdict[K, tuple[T, ...]]:
    """Return the values of each key, in order; nothing for a key that has none."""
    found: defaultdict[K, tuple[T, ...]] = defaultdict(tuple)
    for key, value in pairs:
        found[key] += (value,)
    return found
