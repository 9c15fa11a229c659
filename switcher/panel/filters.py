"""Numbers and times in words, as template filters that need no `{% load %}`.

Relative times are correct when the page is rendered; `switchboard.js` keeps them up to date in the
same words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from django import template
from django.utils.html import escape, format_html, format_html_join
from django.utils.safestring import SafeString

from switcher import access
from switcher.domain.wording import NBSP, keep_alive_words

register = template.Library()
register.filter(keep_alive_words)
for of_user in (access.can_administer, access.can_export, access.can_review, access.theme):
    register.filter(of_user)


@register.filter
def gb(count: int | None) -> str:
    """Return decimal gigabytes without the unit: 5.1, or 44 for a whole number."""
    if not count:
        return "–" if count is None else "0"
    text = f"{count / 1e9:.1f}"
    return text.removesuffix(".0") if text.endswith(".0") and count >= 1e9 else text


@register.filter
def thousands(count: int) -> str:
    """Return a number with separators: 4,096."""
    return f"{count:,}"


@register.filter
def took(seconds: float | None) -> str:
    """Return a measured duration: 30 ms, 0.4 s, 24.4 s, 7 min 37 s."""
    if seconds is None:
        return "–"
    if seconds < 0.1:
        return f"{max(round(seconds * 1000), 1)}{NBSP}ms"
    if seconds < 100:
        return f"{max(seconds, 0):.1f}{NBSP}s"
    return span(seconds)


@register.filter
def span(seconds: float | None) -> str:
    """Return a duration in whole units: 13 s, 2 min 5 s, 24 min, 3 h."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 600 and whole % 60:
        return f"{whole // 60}{NBSP}min {whole % 60}{NBSP}s"
    return _coarse(whole)


@register.filter
def ago(moment: datetime | None, now: datetime) -> str:
    """Return how long ago a moment was: 2 s ago, 4 min ago, 1 h ago, 3 days ago."""
    if moment is None:
        return "never"
    return f"{_coarse((now - moment) / timedelta(seconds=1))} ago"


def until(moment: datetime | None, now: datetime) -> str:
    """Return how long it is until a moment: 24 min; 0 s if it has passed."""
    return "–" if moment is None else _coarse((moment - now) / timedelta(seconds=1))


def since_s(moment: datetime | None, now: datetime) -> float | None:
    """Return the seconds from a moment until now."""
    return None if moment is None else (now - moment) / timedelta(seconds=1)


def _coarse(seconds: float) -> str:
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min"
    if whole < 48 * 3600:
        return f"{whole // 3600}{NBSP}h"
    return f"{whole // 86400}{NBSP}days"


@register.filter
def iso(moment: datetime | None) -> str:
    """Return a moment for `datetime` attributes."""
    return "" if moment is None else moment.astimezone(UTC).isoformat(timespec="milliseconds")


@register.filter
def clock(moment: datetime | None) -> str:
    """Return a time of day: 14:31:54, UTC."""
    return "–" if moment is None else f"{moment.astimezone(UTC):%H:%M:%S}"


@register.filter
def tenths(moment: datetime | None) -> str:
    """Return a time of day with tenths: 14:31:54.2, UTC."""
    if moment is None:
        return "–"
    at = moment.astimezone(UTC)
    return f"{at:%H:%M:%S}.{at.microsecond // 100_000}"


@register.filter
def day(moment: Any) -> str:
    """Return a day: Tue 24 Nov 2026."""
    return f"{moment:%a} {moment.day} {moment:%b %Y}"


@register.filter
def mono(text: str, names: Iterable[str] | None = None) -> SafeString:
    """Render a model's name in the monospaced font; with `names`, only these names within a
    sentence."""
    if names is None:
        return format_html('<span class="mono">{}</span>', text)
    found = sorted({name for name in names if name}, key=len, reverse=True)
    if not found:
        return escape(text)
    parts = re.split(f"({'|'.join(map(re.escape, found))})", text)
    return format_html_join("", "{}", ((mono(p) if p in found else p,) for p in parts))


@register.filter
def error_text(text: str, names: Iterable[str]) -> SafeString:
    """Render an error. What it quotes from Ollama is rendered as code."""
    head, sep, quoted = text.partition(": ")
    if not sep or not head.startswith("Ollama answered "):
        return mono(text, names)
    return format_html("{}: <code>{}</code>", head, quoted)


@register.filter
def as_json(value: Any) -> str:
    """Return a record as indented JSON."""
    return json.dumps(value, indent=2, default=str, ensure_ascii=False)
