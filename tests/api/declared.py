"""Compares answers of the API with what its OpenAPI document declares for them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from typing import Any

from switcher.api.urls import description

# Answered by Django or before an operation begins, for any address.
ANYWHERE = {400, 405, 413, 500}
TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI document as clients read it."""
    read: dict[str, Any] = json.loads(json.dumps(description()))
    return read


def check_declared(document: dict[str, Any], response: Any) -> None:
    """Assert that an answer is one that its operation declares, and holds nothing else."""
    method, path = response.request["REQUEST_METHOD"].lower(), response.request["PATH_INFO"]
    operation = operation_of(document, "get" if method == "head" else method, path)
    if operation is None or method == "head":
        return
    declared = operation["responses"].get(str(response.status_code))
    if declared is None:
        assert response.status_code in ANYWHERE, f"{response.status_code} is not declared"
        return
    content = declared["content"]
    media_type = response["Content-Type"].split(";")[0]
    assert media_type in content, f"{media_type} is not declared"
    if media_type not in {"application/json", "application/problem+json"}:
        return
    errors = list(differences(document, content[media_type]["schema"], response.json()))
    assert not errors, errors


def operation_of(document: dict[str, Any], method: str, path: str) -> dict[str, Any] | None:
    """Return the operation that answers an address; literal addresses come first."""
    for template in sorted(document["paths"], key=lambda t: "{" in t):
        pattern = re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and method in document["paths"][template]:
            return dict(document["paths"][template][method])
    return None


def differences(
    document: dict[str, Any], schema: dict[str, Any], value: Any, where: str = "$"
) -> Iterator[str]:
    """Yield where a value differs from a schema. Members that are not declared are differences."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
    if "anyOf" in schema:
        tried = [list(differences(document, each, value, where)) for each in schema["anyOf"]]
        if all(tried):
            yield from min(tried, key=len)
        return
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (kind != "boolean" and value is True)):
        yield f"{where}: {value!r} is not of type {kind}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    if schema.get("format") == "date-time":
        assert datetime.fromisoformat(value).tzinfo is not None
    if kind == "array":
        for index, item in enumerate(value):
            yield from differences(document, schema["items"], item, f"{where}[{index}]")
    if kind == "object":
        yield from _members(document, schema, value, where)


def _members(
    document: dict[str, Any], schema: dict[str, Any], value: dict[str, Any], where: str
) -> Iterator[str]:
    declared, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where}: {name} is missing"
    for name, member in value.items():
        if name in declared:
            yield from differences(document, declared[name], member, f"{where}.{name}")
        elif isinstance(others, dict):
            yield from differences(document, others, member, f"{where}.{name}")
        elif not others:
            yield f"{where}: {name} is not declared"


def references(value: Any) -> Iterator[str]:
    """Yield every reference in a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)
