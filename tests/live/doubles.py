"""Test doubles: a source with settable content, and a layer that records messages."""

from __future__ import annotations

import json
from typing import Any

from switcher.live.fragments import Part, Rendered


class FakeSource:
    """A source that returns `texts` for each topic."""

    def __init__(self) -> None:
        self.at = 0
        self.texts: dict[str, dict[str, str]] = {"board": {"a": "<p>1</p>", "b": "<p>1</p>"}}
        self.announcements: dict[str, str] = {}
        self.shape: dict[str, str] = {}
        self.ticking = False
        self.looks = 0
        self.renders: list[frozenset[str]] = []
        self.fails = False

    def change_marker(self) -> object:
        self.looks += 1
        if self.fails:
            raise ConnectionError("the database is away")
        return self.at

    def render(self, topics: frozenset[str]) -> Rendered:
        self.renders.append(topics)
        fragments = {
            t: {key: Part(text, text) for key, text in self.texts[t].items()}
            for t in topics
            if t in self.texts
        }
        announcements, self.announcements = self.announcements, {}
        return Rendered(fragments, announcements, dict(self.shape), self.ticking)

    def change(self, topic: str, key: str, text: str) -> None:
        """Change a text, as another process would."""
        self.texts.setdefault(topic, {})[key] = text
        self.at += 1  # afterwards: whoever sees this sees the text as well


class KeepingLayer:
    """A layer that records the sent messages by group, as pages would read them."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any]]] = []

    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        assert message["type"] == "live.message"
        self.sent.append((group, json.loads(message["text"])))
