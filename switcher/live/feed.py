"""What connected pages are told: rendered once, in one thread, published by topic.

The feed acts on levels, not on edges: the bell only makes it look sooner, and each fragment that
it publishes is the whole present text of its element. A message that is lost heals with the next.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from django.db import connections

from switcher.live.fragments import Part
from switcher.records import changed

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
# Without a change: what is told in words ("stale", "24 min") moves on by itself.
RENDER_EVERY_S = 5.0
# Between two looks. A switch makes several transitions in a moment; one message is enough.
BREATH_S = 0.02


@dataclass(frozen=True, slots=True)
class Rendered:
    """What pages of some topics show now.

    `fragments` has for each topic the whole elements, with their `hx-swap-oob`, by a key of their
    own. `announcements` is said once, never kept. `shape` names what a page must have places for:
    if it changes, fragments alone do not do. `ticking`: something counts by the second.
    """

    fragments: dict[str, dict[str, Part]]
    announcements: dict[str, str] = field(default_factory=dict)
    shape: dict[str, str] = field(default_factory=dict)
    ticking: bool = False


class Source(Protocol):
    """Where the feed gets its text from. Called from the feed's thread alone."""

    def pulse(self) -> object:
        """Something that differs if another process has changed anything. One cheap query."""
        ...

    def render(self, topics: frozenset[str]) -> Rendered:
        """The present text of these topics; one that does not exist is left out."""
        ...


class Layer(Protocol):
    """What the feed needs of a channel layer."""

    def group_send(self, group: str, message: dict[str, Any]) -> Coroutine[Any, Any, None]: ...


class Stopped(Exception):
    """The feed has ended, and with it the server."""


@dataclass(slots=True)
class _Kept:
    """What the pages of one topic were last told."""

    seq: int
    fragments: dict[str, Part]
    shape: str


@dataclass(frozen=True, slots=True)
class _Ask:
    topics: tuple[str, ...]
    answer: Future[str]


class Feed:
    """One for each event loop; `start` runs it in a daemon thread, a test calls `tick`."""

    def __init__(self, source: Source, layer: Layer, loop: asyncio.AbstractEventLoop) -> None:
        self.source = source
        self.layer = layer
        self.loop = loop
        # Groups are this process's own, also in a layer that several processes share: each
        # process looks for itself, and numbers its messages for itself.
        self.epoch = secrets.token_hex(4)
        self._bell = threading.Event()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._subscribers: Counter[str] = Counter()
        self._asks: list[_Ask] = []
        self._kept: dict[str, _Kept] = {}
        self._pulse: object = None
        self._news = True
        self._ticking = False
        self._rendered_at = 0.0
        self._thread: threading.Thread | None = None

    # Called from the event loop and from any thread.

    def group(self, topic: str) -> str:
        """The name of the layer's group that gets this topic."""
        return f"live.{self.epoch}.{topic}"

    def notify(self) -> None:
        """There is news in this process, in the database or only in memory: look now."""
        self._news = True
        self._bell.set()

    def subscribe(self, topics: Iterable[str]) -> None:
        """Count a page that shows these topics; only counted topics are rendered."""
        with self._lock:
            self._subscribers.update(topics)

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """The page has gone."""
        with self._lock:
            self._subscribers.subtract(topics)
            self._subscribers += Counter()  # drops what nobody shows any more

    def seqs(self, topics: Iterable[str]) -> dict[str, int]:
        """The newest number of each topic, for the heartbeat."""
        kept = self._kept
        return {t: k.seq for t in topics if (k := kept.get(t)) is not None}

    async def state(self, topics: Iterable[str]) -> str:
        """The message with the whole present state of the topics, which are subscribed to.

        It is made by the feed's thread, between two publications: so its `seqs` say truly which
        messages it already contains.
        """
        ask = _Ask(tuple(topics), Future())
        with self._lock:
            if self._stop.is_set():
                raise Stopped
            self._asks.append(ask)
        self._bell.set()
        return await asyncio.wrap_future(ask.answer)

    def start(self) -> None:
        """Run in a daemon thread of its own: it never keeps the process from ending."""
        self._thread = threading.Thread(target=self._run, name="live-feed", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread soon; who still asks is told so."""
        self._stop.set()
        self._bell.set()

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and not self._stop.is_set()

    # The feed's thread.

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._lock:
                wanted = bool(self._subscribers)
            self._bell.wait(LOOK_EVERY_S if wanted else None)
            self._bell.clear()
            self._tick_safely()
            if not wanted:
                connections.close_all()
            self._stop.wait(BREATH_S)
        self._refuse_asks(Stopped())
        connections.close_all()

    def _tick_safely(self) -> None:
        try:
            self.tick()
        except Exception as exc:  # the top of a loop: logged, asked again in a second
            log.exception("The live feed could not look.", extra={"action": "feed-failed"})
            self._refuse_asks(exc)
            self._pulse = None
            connections.close_all()

    def tick(self) -> None:
        """Look once: render if there is a reason to, publish what differs, answer who asked."""
        with self._lock:
            topics = frozenset(self._subscribers)
            asks, self._asks = self._asks, []
        try:
            if topics:
                self._look(topics)
            else:
                self._forget()
        except Exception:
            with self._lock:
                self._asks = asks + self._asks
            raise
        for ask in asks:
            _resolve(ask.answer, self._state_message(ask.topics))

    def _forget(self) -> None:
        self._kept = {}
        self._pulse = None
        self._ticking = False

    def _look(self, topics: frozenset[str]) -> None:
        # Taken back before anything is read: what comes from here on makes another round.
        news, self._news = self._news, False
        pulse = self.source.pulse()
        waited = time.monotonic() - self._rendered_at
        due = waited >= (LOOK_EVERY_S * 0.9 if self._ticking else RENDER_EVERY_S)
        if not news and pulse == self._pulse and not due and topics <= self._kept.keys():
            return
        rendered = self.source.render(topics)
        self._pulse, self._ticking = pulse, rendered.ticking
        self._rendered_at = time.monotonic()
        self._kept = {t: self._take(t, rendered) for t in sorted(topics)}

    def _take(self, topic: str, rendered: Rendered) -> _Kept:
        """Publish what of a topic differs from what its pages were told, and keep it."""
        now = rendered.fragments.get(topic, {})
        shape = rendered.shape.get(topic, "")
        kept = self._kept.get(topic)
        if kept is None:
            # Nobody was told anything yet: who has just subscribed gets a whole state.
            return _Kept(0, now, shape)
        differs = [
            part.html
            for key, part in now.items()
            if (old := kept.fragments.get(key)) is None or old.mark != part.mark
        ]
        announcements = rendered.announcements.get(topic, "")
        if shape != kept.shape:
            fresh = _Kept(kept.seq + 1, now, shape)
            self._publish(topic, _state([topic], {topic: fresh}, announcements))
            return fresh
        if not differs and not announcements:
            return _Kept(kept.seq, now, shape)
        fresh = _Kept(kept.seq + 1, now, shape)
        html = "".join(differs) + announcements
        self._publish(topic, _text("fragments", topic=topic, seq=fresh.seq, html=html))
        return fresh

    def _publish(self, topic: str, text: str) -> None:
        """Serialised once. From a plain thread `async_to_sync` would run a second loop, and lose
        most messages without an exception: hand it to the loop that the sockets live on."""
        if self.loop.is_closed():
            return
        message = {"type": "live.fragments", "text": text}
        sending = asyncio.run_coroutine_threadsafe(
            self.layer.group_send(self.group(topic), message), self.loop
        )
        sending.add_done_callback(_log_failure)

    def _state_message(self, topics: tuple[str, ...]) -> str:
        return _state(topics, self._kept)

    def _refuse_asks(self, exc: Exception) -> None:
        with self._lock:
            asks, self._asks = self._asks, []
        for ask in asks:
            if not ask.answer.cancelled():
                ask.answer.set_exception(exc)


def _resolve(answer: Future[str], text: str) -> None:
    # The page may have gone while it waited; its future is cancelled then.
    if answer.set_running_or_notify_cancel():
        answer.set_result(text)


def _log_failure(sending: Future[None]) -> None:
    if not sending.cancelled() and (exc := sending.exception()) is not None:
        log.error("A live message was not sent.", exc_info=exc, extra={"action": "push-failed"})


def _state(topics: Iterable[str], kept: dict[str, _Kept], announcements: str = "") -> str:
    known = {t: kept[t] for t in topics if t in kept}
    html = "".join(part.html for k in known.values() for part in k.fragments.values())
    return _text("state", seqs={t: k.seq for t, k in known.items()}, html=html + announcements)


def beat(seqs: dict[str, int]) -> str:
    """The heartbeat: that the line is alive, and how far the topics are."""
    return _text("beat", seqs=seqs)


def _text(kind: str, **facts: object) -> str:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"type": kind, "at": at, **facts}, ensure_ascii=False)


_feeds: dict[asyncio.AbstractEventLoop, Feed] = {}
_feeds_lock = threading.Lock()


def of_loop(loop: asyncio.AbstractEventLoop) -> Feed:
    """The running feed of this event loop, started at its first page. Call it on the loop."""
    with _feeds_lock:
        for old in [each for each in _feeds if each.is_closed()]:
            _feeds.pop(old).stop()
        feed = _feeds.get(loop)
        if feed is None or not feed.running:
            feed = _feeds[loop] = _make(loop)
            feed.start()
        return feed


def _make(loop: asyncio.AbstractEventLoop) -> Feed:
    from channels.layers import get_channel_layer

    from switcher.live.source import PanelSource

    layer = get_channel_layer()
    assert layer is not None, "CHANNEL_LAYERS names no default"
    return Feed(PanelSource(), layer, loop)


def stop_all() -> None:
    """End every feed of this process."""
    with _feeds_lock:
        for feed in _feeds.values():
            feed.stop()
        _feeds.clear()


def notify(**_: object) -> None:
    """Look now, every feed of this process: after a commit, or a new reading."""
    for feed in list(_feeds.values()):
        feed.notify()


changed.connect(notify, dispatch_uid="live-feed")
