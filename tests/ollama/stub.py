"""Answers for calls to Ollama servers, without a server: for tests of what is made of them."""

from __future__ import annotations

import json as json_package
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from switcher.ollama.calls import Answer, Call, Session
from switcher.ollama.errors import OllamaError, Unreachable

Body = bytes | str | OllamaError
Reply = Callable[[dict[str, Any] | None], Answer]


@dataclass(frozen=True, slots=True)
class Sent:
    """One call that was made."""

    method: str
    url: str
    body: dict[str, Any] | None


class StubServers:
    """What servers answer, by method and URL. Several answers come one after the other; the last
    one comes again and again. An address without an answer is unreachable."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self._replies: dict[tuple[str, str], list[Reply]] = {}
        self._given: set[Reply] = set()

    def add(
        self, method: str, url: str, body: Body = b"", *, json: Any = ..., status: int = 200
    ) -> None:
        """Answer with this next; `json` is written as the body. An error is raised."""
        text = body if json is ... else json_package.dumps(json)

        def reply(_: dict[str, Any] | None) -> Answer:
            if isinstance(text, OllamaError):
                raise text
            return Answer(status, text.encode() if isinstance(text, str) else text)

        self.add_reply(method, url, reply)

    def add_reply(self, method: str, url: str, reply: Reply) -> None:
        """Answer with what a function returns for the body that was sent."""
        self._replies.setdefault((method, url), []).append(reply)

    def replace(self, method: str, url: str, body: Body = b"", **values: Any) -> None:
        """Answer with this alone from now on."""
        self._replies.pop((method, url), None)
        self.add(method, url, body, **values)

    def reset(self) -> None:
        """Answer nothing any more."""
        self._replies.clear()

    def send(
        self, method: str, url: str, body: dict[str, Any] | None, timeout_s: float, call: Call
    ) -> Answer:
        """Stand in for Session.send."""
        self.sent.append(Sent(method, url, body))
        replies = self._replies.get((method, url))
        if not replies:
            raise Unreachable(f"No connection to {url.split('/api/')[0]}.")
        if len(replies) > 1 and replies[0] in self._given:
            del replies[0]
        self._given.add(replies[0])
        return replies[0](body)


@contextmanager
def stub_servers() -> Iterator[StubServers]:
    """Answer every call of this process from stubs while the block lasts."""
    stub = StubServers()
    with mock.patch.object(Session, "send", lambda _, *args: stub.send(*args)):
        yield stub
