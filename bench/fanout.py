#!/usr/bin/env python3
"""Measures how long a change takes to reach every page, and what a page costs.

    bench/fanout.py [--clients 200] [--rounds 50] [--hosts 2]

Starts a server with an empty database in a temporary folder, connects the clients like a board, and
makes readings in the server one by one. The time is measured from just before the reading until the
last client has the message. Client and server share this machine: trust the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SERVER = "--this-is-the-server"


def serve(hosts: int) -> None:
    """Run the server process: the product, with two additional paths for the benchmark."""
    import django

    django.setup()
    from asgiref.sync import sync_to_async

    import project.asgi
    from project.command import main as command

    product = project.asgi.application

    async def application(scope: Any, receive: Any, send: Any) -> None:
        name = scope.get("query_string", b"").decode()
        answers = {"/bench/seed": lambda: seed(hosts), "/bench/reading": lambda: reading(name)}
        answer = answers.get(scope.get("path", ""))
        if answer is None:
            await product(scope, receive, send)
            return
        text = await sync_to_async(answer, thread_sensitive=False)()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": text.encode()})

    project.asgi.application = application
    sys.argv = ["manage.py", "serve", "--migrate", "--port", "0", "--no-worker"]
    command()


def seed(hosts: int) -> str:
    """Create hosts at a port where nothing answers, and a session; return the session's key."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.db import SessionStore

    from switcher.audit.ledger import SERVER as ACTOR
    from switcher.models import Host
    from switcher.records import config

    for n in range(hosts):
        config.save_host(Host(name=f"bench-{n + 1}", base_url=f"http://127.0.0.1:{n + 2}"), ACTOR)
    user = User.objects.create_superuser("bench")
    store = SessionStore()
    store[SESSION_KEY] = str(user.pk)
    store[BACKEND_SESSION_KEY] = "switcher.access.RoleBackend"
    store[HASH_SESSION_KEY] = user.get_session_auth_hash()
    store.save()
    return str(store.session_key)


def reading(name: str) -> str:
    """Do what the watcher does after a reading of the first host that shows a model of this
    name.
    """
    from datetime import UTC, datetime

    from switcher.domain.model_names import ModelName
    from switcher.domain.observed import Observation, Resident
    from switcher.models import Host
    from switcher.records import changed
    from switcher.watching import loop

    host = Host.objects.earliest("pk")
    now = datetime.now(UTC)
    rows = tuple(
        Resident(ModelName.parse(f"{name}-{n}"), f"d{n}", 10**9, 10**9, 4096, None)
        for n in range(3)
    )
    loop._latest[host.pk] = Observation(now, resident=rows)
    changed.send(sender="reading", host=host.name)
    return name


class Bench:
    """A run on one server."""

    def __init__(self, address: str, pid: int, session: Any) -> None:
        self.address = address
        self.pid = pid
        self.session = session
        self.seen: dict[int, float] = {}
        self.size = 0
        self.waited = ""

    async def get(self, path: str) -> str:
        async with self.session.get(self.address + path) as answer:
            assert answer.status == 200, answer.status
            return str(await answer.text())

    async def connect(self, key: str) -> Any:
        page = await self.session.ws_connect(
            f"{self.address}/ws/live/?topics=board",
            headers={"Origin": self.address, "Cookie": f"session_id={key}"},
        )
        first = await page.receive_json()
        assert first["type"] == "state", first
        return page

    async def listen(self, number: int, page: Any) -> None:
        async for message in page:
            if self.waited and self.waited in message.data:
                self.size = len(message.data)
                self.seen[number] = time.perf_counter()

    async def round(self, clients: int) -> tuple[float, float]:
        """Return the milliseconds until the first and the last client have the change."""
        self.seen, self.waited = {}, f"model-{time.monotonic_ns()}"
        began = time.perf_counter()
        await self.get(f"/bench/reading?{self.waited}")
        async with asyncio.timeout(10):
            while len(self.seen) < clients:
                await asyncio.sleep(0.0005)
        times = sorted(self.seen.values())
        return (times[0] - began) * 1000, (times[-1] - began) * 1000

    def rss(self) -> int:
        return next(
            int(line.split()[1]) * 1024
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines()
            if line.startswith("VmRSS")
        )

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(address: str, pid: int, clients: int, rounds: int) -> dict[str, Any]:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        bench = Bench(address, pid, session)
        key = await bench.get("/bench/seed")
        for warm in [await bench.connect(key) for _ in range(2)]:
            await warm.close()
        before = bench.rss()
        began = time.perf_counter()
        pages = await asyncio.gather(*(bench.connect(key) for _ in range(clients)))
        connect_s = time.perf_counter() - began
        listening = [asyncio.create_task(bench.listen(n, p)) for n, p in enumerate(pages)]
        await bench.round(clients)
        cpu = bench.cpu_s()
        idle_from = time.perf_counter()
        await asyncio.sleep(10)
        idle = (bench.cpu_s() - cpu) / (time.perf_counter() - idle_from)
        results = []
        for _ in range(rounds):
            results.append(await bench.round(clients))
            await asyncio.sleep(0.05)
        after = bench.rss()
        for task in listening:
            task.cancel()
        await asyncio.gather(*(page.close() for page in pages))
    first, last = zip(*results, strict=True)
    return {
        "clients": clients,
        "rounds": rounds,
        "message_bytes": bench.size,
        "first_ms_p50": round(median(first), 1),
        "last_ms_p50": round(median(last), 1),
        "last_ms_p99": round(sorted(last)[max(0, round(0.99 * rounds) - 1)], 1),
        "connect_all_s": round(connect_s, 2),
        "kib_a_client": round((after - before) / 1024 / clients, 1),
        "idle_cpu_percent": round(100 * idle, 1),
        "rss_mib": round(after / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure how long a change takes to reach every page."
    )
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--hosts", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as data:
        environment = os.environ | {
            "SWITCHER_DATA_DIR": data,
            "DJANGO_SETTINGS_MODULE": "project.settings",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "SWITCHER_LOG_LEVEL": "ERROR",
        }
        server = subprocess.Popen(
            [sys.executable, __file__, SERVER, str(args.hosts)],
            env=environment, cwd=data, text=True, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+(?=/)", server.stdout.readline())
            assert found, "the server did not start"
            figures = asyncio.run(measure(found[0], server.pid, args.clients, args.rounds))
        finally:
            server.terminate()
            server.wait(15)
    print("| what | figure |\n|---|---|")
    for name, figure in figures.items():
        print(f"| {name.replace('_', ' ')} | {figure} |")
    print(json.dumps(figures))


if __name__ == "__main__":
    if sys.argv[1:2] == [SERVER]:
        serve(int(sys.argv[2]))
    else:
        main()
