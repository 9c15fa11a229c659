"""Elements as they are pushed: whole, by id, for htmx's out-of-band swap."""

from __future__ import annotations

import re
from dataclasses import dataclass

from django.utils.html import escape

# What pages keep up to date by themselves, from the attributes beside it.
_TIMES = re.compile(r"(<time\b[^>]*>)[^<]*")
_PROGRESS = re.compile(r'(<progress\b[^>]*?) value="[^"]*"([^>]*>)[^<]*')


@dataclass(frozen=True, slots=True)
class Part:
    """One element as it is pushed. It is pushed again when `mark` differs."""

    html: str
    mark: str


def inner(element_id: str, html: str, unless: str = "") -> Part:
    """The new content of the element with this id, unless the selector finds it there already."""
    own = f' data-live-unless="{escape(unless)}"' if unless else ""
    text = f'<div id="{escape(element_id)}" hx-swap-oob="innerHTML"{own}>{html}</div>'
    return Part(text, essence(html))


def first_in(element_id: str, panel: str, unless: str) -> Part:
    """A panel to put first into the element with this id, unless the selector finds it there.
    Pushed once: what changes in it has ids of its own."""
    where, there = escape(element_id), escape(unless)
    text = f'<div hx-swap-oob="afterbegin:#{where}" data-live-unless="{there}">{panel}</div>'
    return Part(text, "first")


def whole(panel: str, unless: str) -> Part:
    """A panel in the place of the one with its id, unless the selector finds it there."""
    attributes = f'hx-swap-oob="true" data-live-unless="{escape(unless)}"'
    return Part(with_attributes(panel, attributes), unless)


def with_attributes(panel: str, attributes: str) -> str:
    """The same panel, which is one `section`, with attributes more."""
    start, tag, rest = panel.partition("<section ")
    assert tag
    assert not start.strip()
    return f"{tag}{attributes} {rest}"


def essence(html: str) -> str:
    """What must differ for a push: not the seconds, which every page counts for itself."""
    return _PROGRESS.sub(r"\1\2", _TIMES.sub(r"\1", html))
