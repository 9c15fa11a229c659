"""Reads the lists of models in a server's answers, row by row."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Mark, Resident
from switcher.ollama.calls import MAX_CONTAINERS
from switcher.ollama.errors import BadAnswer

T = TypeVar("T")

log = logging.getLogger(__name__)

MAX_NAME = 600  # characters: a host of 350 and three parts of 80


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """The models that a server's answer lists."""

    body_digest: bytes
    rows: tuple[T, ...]
    marks: frozenset[Mark]


def marks(rows: Iterable[Any]) -> frozenset[Mark]:
    """Return the digests and times of rows, exactly as the server wrote them, to recognise it at
    another address. Times without a fraction of a second could be those of any server."""
    times = (
        (row.get("digest"), row.get("expires_at") or row.get("modified_at"))
        for row in rows
        if isinstance(row, dict)
    )
    return frozenset(
        (d, at) for d, at in times if isinstance(d, str) and isinstance(at, str) and "." in at
    )


def parse_models(answer: dict[str, Any], parse: Callable[[dict[str, Any]], T]) -> tuple[T, ...]:
    rows = answer.get("models")
    if rows is None and "models" in answer:
        return ()  # Go encodes an empty list as null
    if not isinstance(rows, list):
        raise BadAnswer("The server's answer lists no models: not Ollama.")
    if len(rows) > MAX_CONTAINERS:  # so they cannot all be objects
        raise BadAnswer("The server lists too many models to be Ollama.")
    found: list[T] = []
    first_error = ""
    for row in rows:
        try:
            found.append(parse(row))
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            first_error = first_error or repr(exc)[:200]  # one odd row must not hide the others
    if rows and not found:
        raise BadAnswer("The server lists a model in a shape that is not Ollama's.")
    if odd := len(rows) - len(found):
        log.warning("%d models of a list cannot be read; the first: %s", odd, first_error)
    return tuple(found)


def parse_resident(row: dict[str, Any]) -> Resident:
    return Resident(
        name=ModelName.parse(_text(row["name"], MAX_NAME)),
        digest=_text(row["digest"], 80),
        size=_number(row["size"]),
        size_vram=_known(_number, row.get("size_vram")) or 0,
        context_length=_known(_number, row.get("context_length")) or 0,
        expires_at=_known(_time, row.get("expires_at")),
    )


def parse_installed(row: dict[str, Any]) -> Installed:
    return Installed(
        name=ModelName.parse(_text(row["name"], MAX_NAME)),
        digest=_text(row["digest"], 80),
        size=_number(row["size"]),
        capabilities=parse_capabilities(row.get("capabilities")),
        remote_host=_remote_host(row),
        on_mlx=_detail(row, "format") == "safetensors",
        most_context=_known(_number, _detail(row, "context_length")) or 0,
    )


def _remote_host(row: dict[str, Any]) -> str:
    """Return where the server sends the model's prompts, even if it does not say so legibly; empty
    if they stay (fact 28)."""
    if not row.get("remote_host") and not row.get("remote_model"):
        return ""
    return _known(_short_text, row.get("remote_host")) or "another server"


def _detail(row: dict[str, Any], name: str) -> object:
    details = row.get("details")
    return details.get(name) if isinstance(details, dict) else None


def parse_capabilities(rows: object) -> tuple[str, ...]:
    if not isinstance(rows, list):
        return ()
    return tuple(c for row in rows if (c := _known(_short_text, row)))


def older_capabilities(info: object) -> tuple[str, ...]:
    """Return the capabilities that servers before 0.6.4 do not list. They too refuse to generate
    with a model that has a pooling type."""
    pools = isinstance(info, dict) and any(str(name).endswith(".pooling_type") for name in info)
    return ("embedding",) if pools else ()


def _known(read: Callable[[Any], T], value: object) -> T | None:
    """Return a value that a row can do without; None if it is absent or cannot be read."""
    if value is None or value == "":
        return None
    try:
        return read(value)
    except (ValueError, OverflowError):
        return None


def _short_text(value: object) -> str:
    return _text(value, 100)


def _text(value: object, max_length: int) -> str:
    """Return a text that can be stored and shown. Raises ValueError for anything else."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("not a name")
    return value[:max_length]


def _number(value: object) -> int:
    """Return a count of bytes or tokens that Go can hold. Raises ValueError for anything else."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError("not a size")
    return value


def printable(text: str) -> str:
    """Return a server's message without characters that no database stores, such as NUL."""
    return "".join(c if c.isprintable() else " " for c in text)


_NANOSECONDS = re.compile(r"(\.\d{6})\d+")


def _time(text: object) -> datetime:
    """Parse an RFC 3339 time. Ollama writes up to nine digits of a second; Python's datetime holds
    six. Raises ValueError, OverflowError."""
    if not isinstance(text, str):
        raise ValueError("not a time")
    moment = datetime.fromisoformat(_NANOSECONDS.sub(r"\1", text))
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
