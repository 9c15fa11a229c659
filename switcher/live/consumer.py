"""The socket of one page: who may listen, to what; the whole state first, then what changes."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from typing import Any
from urllib.parse import parse_qs

from channels.consumer import AsyncConsumer
from channels.db import database_sync_to_async
from channels.exceptions import StopConsumer
from django.conf import settings

from switcher import access
from switcher.live import feed

log = logging.getLogger(__name__)

TOPIC = re.compile(r"board|events|host-[a-zA-Z0-9_-]{1,40}|switch-[1-9][0-9]{0,17}", re.ASCII)
MAX_TOPICS = 4
MAX_MESSAGE = 200  # characters that a page may send at once; it has one thing to say
MAX_RESYNCS = 30  # between two checks of who listens
# A line that has died silently shows only by silence: pages wait for some two of these.
BEAT_EVERY_S = 2.5
CHECK_EVERY_S = 60.0

# Close codes of our own. Pages retry the last, go to the login page for the second, and give up
# for the first.
BAD_REQUEST, SIGNED_OUT, TRY_AGAIN = 4400, 4401, 4503


def may_view(session_key: str) -> bool:
    """Whether this session is of somebody who may see the board now. Reads the database."""
    if not session_key:
        return False
    return access.can_view(access.user_of_session(session_key))


def parse_topics(query: bytes) -> tuple[str, ...]:
    """The topics of `?topics=board,events`, without repetition; empty if one is not a topic."""
    given = parse_qs(query.decode("latin1")).get("topics", [""])[0]
    topics = tuple(dict.fromkeys(re.split(r"[ ,]+", given.strip())))
    good = len(topics) <= MAX_TOPICS and all(TOPIC.fullmatch(t) for t in topics)
    return topics if good else ()


class LiveConsumer(AsyncConsumer):
    """Sends `state`, `fragments` and `beat`; takes `{"resync": true}` and nothing else."""

    channel_name: str

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.topics: tuple[str, ...] = ()
        self.resyncs = 0
        self.closed = False
        self.feed: feed.Feed | None = None
        self.beating: asyncio.Task[None] | None = None
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Here and not on `websocket.disconnect`: a killed application never gets that one.
            await self._leave()

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Without Channels' hop to its one database thread for each message: nothing here uses
        that thread's connection, and one slow query in it would stall every socket."""
        handlers = {
            "websocket.connect": self._connect,
            "websocket.receive": self._receive,
            "websocket.disconnect": self._disconnect,
            "live.fragments": self._push,
        }
        await handlers[message["type"]](message)

    async def _connect(self, _: dict[str, Any]) -> None:
        # Accept first: a refused handshake looks like a lost line and is retried for ever.
        await self.send({"type": "websocket.accept"})
        topics = parse_topics(self.scope["query_string"])
        if not topics:
            await self._close(BAD_REQUEST)
        elif not await self._may_view():
            await self._close(SIGNED_OUT)
        else:
            await self._listen(topics)

    async def _listen(self, topics: tuple[str, ...]) -> None:
        self.topics = topics
        self.feed = feed.of_loop(asyncio.get_running_loop())
        self.feed.subscribe(topics)
        await self._send_state()
        self.beating = asyncio.create_task(self._beat())

    async def _send_state(self) -> None:
        """Join first, then read: what is published in between is in the queue, and the page drops
        it by its number if the state contains it. Joining again is harmless, and heals a socket
        that the layer has put out because it was slow."""
        assert self.feed is not None
        for topic in self.topics:
            await self.channel_layer.group_add(self.feed.group(topic), self.channel_name)
        try:
            await self._text(await self.feed.state(self.topics))
        except Exception:  # logged by the feed: the database is away, or the server ends
            await self._close(TRY_AGAIN)

    async def _receive(self, message: dict[str, Any]) -> None:
        text = message.get("text") or ""
        self.resyncs += 1
        if len(text) > MAX_MESSAGE or not _asks_resync(text):
            await self._close(BAD_REQUEST)
        elif self.resyncs > MAX_RESYNCS:
            await self._close(TRY_AGAIN)
        elif self.feed is not None:
            await self._send_state()

    async def _push(self, message: dict[str, Any]) -> None:
        await self._text(message["text"])

    async def _disconnect(self, _: dict[str, Any]) -> None:
        raise StopConsumer

    async def _beat(self) -> None:
        """The heartbeat, and each minute another look at who listens."""
        assert self.feed is not None
        checked_at = time.monotonic()
        while True:
            await asyncio.sleep(BEAT_EVERY_S)
            await self._text(feed.beat(self.feed.seqs(self.topics)))
            if time.monotonic() - checked_at >= CHECK_EVERY_S:
                checked_at, self.resyncs = time.monotonic(), 0
                if not await self._still_may_view():
                    await self._close(SIGNED_OUT)
                    return

    async def _may_view(self) -> bool:
        key = self.scope["cookies"].get(settings.SESSION_COOKIE_NAME, "")
        return bool(await database_sync_to_async(may_view, thread_sensitive=False)(key))

    async def _still_may_view(self) -> bool:
        try:
            return await self._may_view()
        except Exception:  # the database is away: that is no reason to turn people out
            log.exception("Who listens could not be checked.", extra={"action": "check-failed"})
            return True

    async def _text(self, text: str) -> None:
        if not self.closed:
            await self.send({"type": "websocket.send", "text": text})

    async def _close(self, code: int) -> None:
        self.closed = True
        await self.send({"type": "websocket.close", "code": code})

    async def _leave(self) -> None:
        if self.beating is not None:
            self.beating.cancel()
        if self.feed is not None:
            self.feed.unsubscribe(self.topics)
            for topic in self.topics:
                await self.channel_layer.group_discard(self.feed.group(topic), self.channel_name)


def _asks_resync(text: str) -> bool:
    try:
        return bool(json.loads(text) == {"resync": True})
    except ValueError:
        return False
