"""Wording that several pages share."""

from __future__ import annotations

from switcher.domain.specs import FOREVER, keep_alive_s

NBSP = "\u00a0"

SOURCES = {
    "page": "web",
    "api": "API",
    "command": "command line",
    "admin": "Django admin",
    "gateway": "gateway",
    "watcher": "the watcher",
    "server": "this server",
}


def came_from(source: str, ip: str | None) -> str:
    """Return where somebody acted from: `web, 192.0.2.14`."""
    where = SOURCES.get(source, source)
    return f"{where}, {ip}" if ip else where


def keep_alive_words(text: str) -> str:
    """Return a checked keep-alive in words: `30 min`, `forever`, `unloads after each use`."""
    if text == FOREVER:
        return "forever"
    seconds = keep_alive_s(text) or 0.0
    if not seconds:
        return "unloads after each use"
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds % unit == 0:
            return f"{seconds / unit:g}{NBSP}{name}"
    return text


def gb(count: int) -> str:
    """Return decimal gigabytes with one digit, such as 5.1."""
    return f"{count / 1e9:.1f}"
