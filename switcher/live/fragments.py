"""Elements that are pushed to pages, each as a whole and by its id, for htmx's out-of-band
swaps."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from django.utils.html import escape

# Pages update these by themselves, from the attributes of the element.
_TIMES = re.compile(r"(<time\b[^>]*>)[^<]*")
_PROGRESS = re.compile(r'(<progress\b[^>]*?) value="[^"]*"([^>]*>)[^<]*')


@dataclass(frozen=True, slots=True)
class Part:
    """An element with its `hx-swap-oob`. It is pushed again when `mark` changes."""

    html: str
    mark: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """The current content of some topics.

    `fragments` has the whole elements of each topic, by a key. `announcements` are spoken once and
    not kept. `shape` names the elements that a page must have: if it changes, pages have to read
    the whole state. `ticking` is set if something changes every second.
    """

    fragments: dict[str, dict[str, Part]]
    announcements: dict[str, str] = field(default_factory=dict)
    shape: dict[str, str] = field(default_factory=dict)
    ticking: bool = False


def inner(element_id: str, html: str, unless: str = "") -> Part:
    """Return new content for the element with this id. Pages on which the selector `unless` matches
    skip it."""
    own = f' data-live-unless="{escape(unless)}"' if unless else ""
    text = f'<div id="{escape(element_id)}" hx-swap-oob="innerHTML"{own}>{html}</div>'
    return Part(text, essence(html))


def first_in(element_id: str, panel: str, unless: str) -> Part:
    """Return a panel to insert as the first child of the element with this id, except on pages on
    which `unless` matches. It is pushed once: the parts that change have ids of their own."""
    where, there = escape(element_id), escape(unless)
    text = f'<div hx-swap-oob="afterbegin:#{where}" data-live-unless="{there}">{panel}</div>'
    return Part(text, "first")


def whole(panel: str, unless: str) -> Part:
    """Return a panel that replaces the one with the same id, except on pages on which `unless`
    matches."""
    attributes = f'hx-swap-oob="true" data-live-unless="{escape(unless)}"'
    return Part(with_attributes(panel, attributes), unless)


def with_attributes(panel: str, attributes: str) -> str:
    """Return the panel, a single `section`, with additional attributes."""
    start, tag, rest = panel.partition("<section")
    assert tag
    assert not start.strip()
    return f"{tag} {attributes}{rest}"


def essence(html: str) -> str:
    """Return the content to compare, without the seconds: every page counts those itself."""
    return _PROGRESS.sub(r"\1\2", _TIMES.sub(r"\1", html))
