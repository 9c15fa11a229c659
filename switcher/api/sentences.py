"""What is wrong with a request, in sentences that name the field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_KINDS = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
}


def explain(errors: Sequence[dict[str, Any]], known: Sequence[str]) -> list[dict[str, str]]:
    """One sentence for each field: `[{"field", "message"}]`. `known` are the body's fields."""
    by_field: dict[str, list[dict[str, Any]]] = {}
    for error in errors:
        by_field.setdefault(_field(error), []).append(error)
    return [{"field": f, "message": _sentence(f, es, known)} for f, es in by_field.items()]


def _field(error: dict[str, Any]) -> str:
    """A location is (where, parameter, field, …); the body as a whole has no field."""
    loc = [str(part) for part in error["loc"]]
    if loc and loc[0] in {"query", "path"}:
        return loc[2] if len(loc) > 2 else loc[-1]
    return loc[2] if len(loc) > 2 else ""


def _sentence(field: str, errors: list[dict[str, Any]], known: Sequence[str]) -> str:
    where, kind = str(errors[0]["loc"][0]), str(errors[0]["type"])
    if not field:
        return 'The body must be a JSON object, for example {"model": "qwen2.5:14b"}.'
    if kind == "extra_forbidden":
        listed = f" Known: {', '.join(known)}." if where == "body" else ""
        return f"There is no field {field!r}.{listed}"
    wanted = [_KINDS[e["type"]] for e in errors if e["type"] in _KINDS]
    if wanted:
        return f"Field {field!r} must be {' or '.join(dict.fromkeys(wanted))}."
    text = str(errors[0]["msg"])
    return f"Field {field!r}: {text[:1].lower()}{text[1:]}."
