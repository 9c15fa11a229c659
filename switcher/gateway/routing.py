"""Where a request goes: to what is active on its host now, and to nowhere while a swap lasts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from switcher import traffic
from switcher.errors import NotFound
from switcher.gateway import hold
from switcher.gateway.answers import Refusal
from switcher.queries.api import Route, route
from switcher.switching.waiting import in_thread

# The id that a host's name led to last time: only to know which count to enter.
_ids: dict[str, int] = {}


@asynccontextmanager
async def on_route(name: str) -> AsyncIterator[Route]:
    """The route of this host, or of the default one, counted as in flight while the block lasts.

    It is counted first and read after. A swap does it the other way round: it commits *draining*
    and looks at the count after. So, whatever the timing: if we read no hold, our reading came
    before that commit, and the count that it looks at has us in it: it waits for us. If we read
    the hold, we leave the count, wait for the end and start over. Read first and count after, and
    a request could slip into the gap, reach the old model as it leaves, and load it again.
    """
    until = asyncio.get_running_loop().time() + hold.LONGEST_S
    host_id = _ids.get(name)
    while True:
        if host_id is None:
            host_id = (await read(name)).host_id
        with traffic.entered(host_id):
            now = await read(name)
            if now.host_id == host_id and not now.held:
                _ids[name] = host_id
                yield now
                return
        host_id = now.host_id
        if now.held:
            await hold.until_released(now, until - asyncio.get_running_loop().time())


async def read(name: str) -> Route:
    """The route now, whether it is held or not. Raises Refusal."""
    try:
        return await in_thread(route, name)
    except NotFound as exc:
        _ids.pop(name, None)
        if name:
            raise Refusal(404, "host_not_found", exc.text, "host") from exc
        raise Refusal(503, "no_host", "There is no host yet. Add one first.") from exc
