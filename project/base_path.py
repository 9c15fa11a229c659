"""Serves everything below a path, such as https://ops.example.com/switchboard/, behind a proxy."""

from __future__ import annotations

from typing import Any

from django.conf import settings


def without_base_path(scope: Any) -> Any:
    """Return the scope with the base path removed from the path.

    Some proxies remove the base path from what they forward, others leave it: both look the same
    afterwards.
    """
    base = settings.FORCE_SCRIPT_NAME or ""
    path = scope.get("path", "")
    if not base or not (path == base or path.startswith(f"{base}/")):
        return scope
    changed = {"path": path.removeprefix(base) or "/"}
    if raw := scope.get("raw_path"):
        changed["raw_path"] = raw.removeprefix(base.encode()) or b"/"
    return scope | changed


def with_base_path(scope: Any) -> Any:
    """Return the scope as Django expects it, which removes the base path itself."""
    base = settings.FORCE_SCRIPT_NAME or ""
    return scope | {"path": f"{base}{scope['path']}"} if base else scope
