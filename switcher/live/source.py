"""Where the feed gets its text from: the same queries and templates as the pages."""

from __future__ import annotations

from switcher.live.feed import Rendered


class PanelSource:
    def pulse(self) -> object:
        return 0

    def render(self, topics: frozenset[str]) -> Rendered:
        return Rendered({})
