"""Facts in words, where several pages say the same."""

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
    """From where somebody acted: `web, 192.0.2.14`."""
    where = SOURCES.get(source, source)
    return f"{where}, {ip}" if ip else where


def keep_alive_words(text: str) -> str:
    """A checked keep-alive for people: `30 min`, `for ever`, `unloads after each use`."""
    if text == FOREVER:
        return "for ever"
    seconds = keep_alive_s(text) or 0.0
    if not seconds:
        return "unloads after each use"
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds % unit == 0:
            return f"{seconds / unit:g}{NBSP}{name}"
    return text
