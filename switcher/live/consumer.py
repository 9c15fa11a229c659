"""The socket of one page, `/ws/live/`: checks access, sends the whole state, then the changes."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any
from urllib.parse import parse_qs

from channels.consumer import AsyncConsumer
from channels.db import database_sync_to_async
from channels.exceptions import StopConsumer
from channels.security.websocket import AllowedHostsOriginValidator
from channels.sessions import CookieMiddleware
from django.conf import settings

from switcher import access
from switcher.live import feed

log = logging.getLogger(__name__)

PATH = "/ws/live/"
TOPIC = re.compile(r"board|events|host-[a-zA-Z0-9_-]{1,40}|switch-[1-9][0-9]{0,17}", re.ASCII)
MAX_TOPICS = 4
# A dead connection can only be recognised by silence: pages wait for about two heartbeats.
HEARTBEAT_INTERVAL_S = 2.5
CHECK_INTERVAL_S = 60.0

# Close codes (docs/adr/0004). The page gives up after the first, goes to the login page after the
# second, and connects again after the others.
BAD_REQUEST, SIGNED_OUT, FELL_BEHIND, TRY_AGAIN = 4400, 4401, 4408, 4503


def may_view(session_key: str) -> bool:
    """Return whether this session's user may see the board now. Reads the database."""
    if not session_key:
        return False
    return access.can_view(access.user_of_session(session_key))


def parse_topics(query: bytes) -> tuple[str, ...]:
    """Return the topics of `?topics=board,events`, each once; empty if one is not a topic."""
    given = parse_qs(query.decode("latin1")).get("topics", [""])[0]
    topics = tuple(dict.fromkeys(re.split(r"[ ,]+", given.strip())))
    good = len(topics) <= MAX_TOPICS and all(TOPIC.fullmatch(t) for t in topics)
    return topics if good else ()


class LiveConsumer(AsyncConsumer):
    """A socket that sends `state`, `fragments` and `beat` messages. A page sends nothing."""

    channel_name: str

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.topics: tuple[str, ...] = ()
        self.closed = False
        self.feed: feed.Feed | None = None
        self.heartbeat: asyncio.Task[None] | None = None
        try:
            await super().__call__(scope, receive, send)
        finally:
            # Not on `websocket.disconnect`, which a killed application never receives.
            self._leave()

    async def dispatch(self, message: dict[str, Any]) -> None:
        """Handle a message. Unlike Channels' own method, it does not pass through the one database
        thread: nothing here uses that thread's connection, and one slow query in it would stall
        every socket."""
        match message["type"]:
            case "websocket.connect":
                await self._connect()
            case "websocket.receive":
                await self._close(BAD_REQUEST)
            case "websocket.disconnect":
                raise StopConsumer
            case "live.message":
                await self._send_text(message["text"])
            case "live.overflow":
                await self._close(FELL_BEHIND)

    async def _connect(self) -> None:
        # Accept first: a refused handshake looks like a lost connection and is retried forever.
        await self.send({"type": "websocket.accept"})
        topics = parse_topics(self.scope["query_string"])
        if not topics:
            await self._close(BAD_REQUEST)
        elif not await self._may_view():
            await self._close(SIGNED_OUT)
        else:
            await self._listen(topics)

    async def _listen(self, topics: tuple[str, ...]) -> None:
        """Join the groups, and read the state only then, so that no message pushed in between is
        missed."""
        self.topics = topics
        self.feed = feed.feed_of(asyncio.get_running_loop())
        self.feed.subscribe(topics)
        for topic in topics:
            await self.channel_layer.group_add(feed.group(topic), self.channel_name)
        try:
            await self._send_text(await self.feed.state(topics))
        except Exception:  # logged by the feed: no database, or the server is stopping
            await self._close(TRY_AGAIN)
        else:
            self.heartbeat = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        """Send the heartbeat, and check the page's access every minute."""
        checked_at = time.monotonic()
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
            await self._send_text(feed.heartbeat())
            if time.monotonic() - checked_at >= CHECK_INTERVAL_S:
                checked_at = time.monotonic()
                if not await self._still_may_view():
                    await self._close(SIGNED_OUT)
                    return

    async def _may_view(self) -> bool:
        key = self.scope["cookies"].get(settings.SESSION_COOKIE_NAME, "")
        return bool(await database_sync_to_async(may_view, thread_sensitive=False)(key))

    async def _still_may_view(self) -> bool:
        try:
            return await self._may_view()
        except Exception:  # the database is unavailable, which is no reason to sign people out
            log.exception(
                "A page's session could not be checked.", extra={"action": "check-failed"}
            )
            return True

    async def _send_text(self, text: str) -> None:
        if not self.closed:
            await self.send({"type": "websocket.send", "text": text})

    async def _close(self, code: int) -> None:
        if not self.closed:
            self.closed = True
            await self.send({"type": "websocket.close", "code": code})

    def _leave(self) -> None:
        if self.heartbeat is not None:
            self.heartbeat.cancel()
        if self.feed is not None:
            self.feed.unsubscribe(self.topics)
        self.channel_layer.forget(self.channel_name)


_live = AllowedHostsOriginValidator(CookieMiddleware(LiveConsumer.as_asgi()))


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Serve a WebSocket. Refuse paths other than PATH and pages of another origin (HTTP 403)."""
    if scope["path"] != PATH or _is_from_elsewhere(scope):
        await receive()
        await send({"type": "websocket.close"})
        return
    await _live(scope, receive, send)


def _is_from_elsewhere(scope: Any) -> bool:
    """Return whether the request comes from a page of another site or port; Channels' validator
    compares only the host name. The scheme is not compared, as a proxy may have terminated TLS."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    secure = headers.get("origin", "").startswith("https:")
    return access.is_cross_site(headers, headers.get("host", ""), secure)
