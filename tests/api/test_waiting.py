from __future__ import annotations

import asyncio
import threading

from django.db import connection

from switcher.concurrency.threads import in_host_thread, in_thread
from switcher.records import changed
from switcher.switching.waiting import changes_of


async def test_a_commit_in_another_thread_wakes_the_waiting() -> None:
    with changes_of("tower") as changes:
        changes.clear()
        threading.Thread(target=lambda: changed.send(sender="switch.loading", host="tower")).start()
        async with asyncio.timeout(10):
            await changes.wait(60)


async def test_other_hosts_and_readings_wake_nobody() -> None:
    with changes_of("tower") as changes:
        changed.send(sender="switch.loading", host="den")
        changed.send(sender="reading", host="tower")
        await asyncio.sleep(0)
        assert not changes._changed.is_set()


def test_a_commit_after_the_loop_has_ended_raises_nothing() -> None:
    async def listen() -> None:
        changes = changes_of("tower")
        changes.__enter__()  # and never leaves, as when a loop dies under it
        listen.kept = changes  # type: ignore[attr-defined]

    asyncio.run(listen())
    changed.send(sender="switch.loading", host="tower")
    listen.kept.__exit__(None, None, None)  # type: ignore[attr-defined]


async def test_the_connection_of_the_thread_is_closed(transactional_db: None) -> None:
    def used() -> object:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return connection.connection

    def left() -> bool:
        return connection.connection is None

    assert await in_thread(used) is not None
    assert await in_thread(left)


async def test_hanging_hosts_do_not_block_reading_rows() -> None:
    free = threading.Event()
    asked = [asyncio.create_task(in_host_thread(free.wait)) for _ in range(50)]
    async with asyncio.timeout(10):
        assert await in_thread(lambda: "read") == "read"
    free.set()
    assert all(await asyncio.gather(*asked))
