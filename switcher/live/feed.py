"""The live feed: renders the pages' content once for all of them, and pushes what has changed.

It compares states instead of handling events: a notification only makes it check sooner, and each
fragment is the complete current content of its element. A page that has missed something reconnects
and gets the whole state of its topics.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from channels.layers import get_channel_layer
from django.db import connections

from switcher.concurrency.loop import Loop
from switcher.domain.clock import Clock, system
from switcher.live.fragments import Part, Rendered
from switcher.live.source import PanelSource
from switcher.records import changed

log = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0
# How often to render without a change: texts such as "stale" or "24 min ago" change by themselves.
RENDER_INTERVAL_S = 5.0
# Pause between two checks. A switch makes several transitions in quick succession; one message is
# enough.
PAUSE_S = 0.02


class Stopped(Exception):
    """The feed has ended, and the server with it."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """The content that the pages of one topic show."""

    fragments: dict[str, Part]
    shape: str

    @property
    def html(self) -> str:
        return "".join(part.html for part in self.fragments.values())


@dataclass(frozen=True, slots=True)
class _StateRequest:
    topics: tuple[str, ...]
    answer: Future[str]

    # If the page has disconnected meanwhile, its future is cancelled.

    def resolve(self, text: str) -> None:
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_result(text)

    def fail(self, exc: Exception) -> None:
        if self.answer.set_running_or_notify_cancel():
            self.answer.set_exception(exc)


def group(topic: str) -> str:
    """Return the name of the layer's group that gets this topic."""
    return f"live.{topic}"


class Feed:
    """The feed of one event loop. `start` runs it in a thread of its own; tests call `tick`."""

    def __init__(
        self,
        source: PanelSource,
        layer: Any,
        loop: asyncio.AbstractEventLoop,
        clock: Clock = system,
    ) -> None:
        self._source = source
        self._layer = layer
        self._event_loop = loop
        self._clock = clock
        self._thread = Loop("live-feed", self.tick, LOOK_INTERVAL_S, pause_s=PAUSE_S)
        self._lock = threading.Lock()
        self._subscribers: Counter[str] = Counter()
        self._requests: list[_StateRequest] = []
        self._shown: dict[str, _Shown] = {}
        self._marker: object = None
        self._notified = True
        self._ticking = False
        self._rendered_at = -math.inf

    # --- called from the event loop and from any thread ------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread soon. Callers that wait for a state get `Stopped`."""
        self._thread.stop()
        for request in self._take_requests()[1]:
            request.fail(Stopped())

    @property
    def running(self) -> bool:
        return self._thread.alive and not self._thread.stopping

    def notify(self) -> None:
        """Make the feed check now: this process has changed something, in the database or in
        memory.
        """
        self._notified = True
        self._thread.wake()

    def subscribe(self, topics: Iterable[str]) -> None:
        """Count a page that shows these topics; only counted topics are rendered."""
        with self._lock:
            self._subscribers.update(topics)

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Stop counting a page that has disconnected."""
        with self._lock:
            self._subscribers.subtract(topics)
            self._subscribers += Counter()  # drops topics that no page shows any more

    async def state(self, topics: Iterable[str]) -> str:
        """Return the message with the whole current state of topics that are subscribed to.

        The feed's thread builds it between two pushes. A page that has already joined the topics'
        groups misses nothing: messages pushed meanwhile are in its channel, and applying a change
        that the state already contains has no effect.
        """
        request = _StateRequest(tuple(topics), Future())
        with self._lock:
            if self._thread.stopping:
                raise Stopped
            self._requests.append(request)
        self._thread.wake()
        return await asyncio.wrap_future(request.answer)

    # --- the feed's thread -----------------------------------------------------------------------

    def tick(self) -> float | None:
        """Render if there is a reason to, push the changes, and answer those waiting for a state.
        Without subscribers, wait for the next one.
        """
        topics, requests = self._take_requests()
        try:
            self._update(topics)
        except Exception as exc:
            self._marker = None  # so that the next tick renders
            for request in requests:
                request.fail(exc)
            raise
        for request in requests:
            shown = (self._shown.get(topic) for topic in request.topics)
            request.resolve(_message("state", html="".join(s.html for s in shown if s)))
        if topics:
            return None
        connections.close_all()
        return math.inf

    def _take_requests(self) -> tuple[frozenset[str], list[_StateRequest]]:
        """Take the pending state requests and all subscribed topics, atomically."""
        with self._lock:
            requests, self._requests = self._requests, []
            return frozenset(self._subscribers), requests

    def _update(self, topics: frozenset[str]) -> None:
        if not topics:
            self._shown = {}
            return
        # Reset before anything is read, so that a later notification causes another tick.
        notified, self._notified = self._notified, False
        marker = self._source.change_marker()
        if not (notified or marker != self._marker or self._is_due(topics)):
            return
        rendered = self._source.render(topics)
        self._marker, self._ticking = marker, rendered.ticking
        self._rendered_at = self._clock.monotonic()
        self._shown = {topic: self._push_changes(topic, rendered) for topic in sorted(topics)}

    def _is_due(self, topics: frozenset[str]) -> bool:
        interval_s = LOOK_INTERVAL_S * 0.9 if self._ticking else RENDER_INTERVAL_S
        is_old = self._clock.monotonic() - self._rendered_at >= interval_s
        return is_old or not topics <= self._shown.keys()

    def _push_changes(self, topic: str, rendered: Rendered) -> _Shown:
        """Push the changes in a topic's content; return what its pages show from then on."""
        now = _Shown(rendered.fragments.get(topic, {}), rendered.shape.get(topic, ""))
        before = self._shown.get(topic)
        if before is None:
            return now  # new subscribers get a whole state
        announcements = rendered.announcements.get(topic, "")
        if now.shape != before.shape:
            self._push(topic, _message("state", html=now.html + announcements))
            return now
        old = before.fragments
        changed_parts = (
            part.html
            for key, part in now.fragments.items()
            if key not in old or old[key].mark != part.mark
        )
        html = "".join(changed_parts) + announcements
        if html:
            self._push(topic, _message("fragments", topic=topic, html=html))
        return now

    def _push(self, topic: str, text: str) -> None:
        """Pass the message to the event loop of the sockets. (In a plain thread, `async_to_sync`
        would run a second loop and lose most messages without an exception.)"""
        message = {"type": "live.message", "text": text}
        sending = asyncio.run_coroutine_threadsafe(
            self._layer.group_send(group(topic), message), self._event_loop
        )
        sending.add_done_callback(_log_failure)


def _log_failure(sending: Future[None]) -> None:
    if not sending.cancelled() and (exc := sending.exception()) is not None:
        log.error("A live message was not sent.", exc_info=exc, extra={"action": "push-failed"})


def heartbeat() -> str:
    """Return the message that shows that the connection is alive."""
    return _message("beat")


def _message(kind: str, **facts: object) -> str:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"type": kind, "at": at, **facts}, ensure_ascii=False)


_feeds: dict[asyncio.AbstractEventLoop, Feed] = {}
_feeds_lock = threading.Lock()


def feed_of(loop: asyncio.AbstractEventLoop) -> Feed:
    """Return this event loop's feed, starting it if necessary. Call it on the loop."""
    with _feeds_lock:
        for closed in [each for each in _feeds if each.is_closed()]:
            _feeds.pop(closed).stop()
        feed = _feeds.get(loop)
        if feed is None or not feed.running:
            layer = get_channel_layer()
            assert layer is not None, "CHANNEL_LAYERS has no default"
            feed = _feeds[loop] = Feed(PanelSource(), layer, loop)
            feed.start()
        return feed


def stop_all() -> None:
    """Stop every feed of this process."""
    with _feeds_lock:
        for feed in _feeds.values():
            feed.stop()
        _feeds.clear()


def notify(**_: object) -> None:
    """Make every feed of this process check for changes now: after a commit or a new reading."""
    for feed in list(_feeds.values()):
        feed.notify()


changed.connect(notify, dispatch_uid="live-feed")
