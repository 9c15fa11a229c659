#!/usr/bin/env python3
"""Measures the gateway: requests per second and added time, compared with the host itself.

    bench/gateway.py [--seconds 3] [--rounds 3] [--workers 4]

The routes are: the upstream itself; Switchboard's gateway as one process, as several processes, and
inside the server; and llama-swap and LiteLLM if they are on the PATH. The upstream answers with
JSON at once, or with 30 parts that are a millisecond apart. The routes take turns in each round, so
that noise affects all alike. Client, gateway and upstream share this machine: trust the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
from aiohttp import web

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = (1, 16, 64)
UPSTREAM = "--this-is-the-upstream"
PARTS, PART_S = 30, 0.001
PART = b'data: {"choices":[{"index":0,"delta":{"content":"token "}}]}\n\n'


def serve_upstream(port: int) -> None:
    """Serve a host that computes nothing, so that only the layer in front of it is measured."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if not body.get("stream"):
            choice = {"index": 0, "message": {"role": "assistant", "content": "Hello"}}
            return web.json_response({"model": body["model"], "choices": [choice]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(PARTS):
            await response.write(PART)
            await asyncio.sleep(PART_S)
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    app.router.add_get("/{path:.*}", lambda _: web.json_response({"data": [], "models": []}))
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


# -- load


async def load(url: str, clients: int, stream: bool, seconds: float) -> tuple[int, list[Any]]:
    """Return how many requests ended in time, and the seconds to first byte and end of each."""
    times: list[tuple[float, float]] = []
    message = {"role": "user", "content": "Hello"}
    body = {"model": "bench", "messages": [message], "stream": stream}
    until = time.perf_counter() + seconds

    async def ask(session: aiohttp.ClientSession) -> None:
        while (began := time.perf_counter()) < until:
            async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
                assert answer.status == 200, (url, answer.status, await answer.text())
                first = 0.0
                async for _ in answer.content.iter_any():
                    first = first or time.perf_counter() - began
            times.append((first, time.perf_counter() - began))

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(ask(session) for _ in range(clients)))
    return len(times), times


def summarize(runs: list[tuple[int, list[Any]]], seconds: float) -> dict[str, float]:
    firsts = sorted(first for _, times in runs for first, _ in times)
    wholes = sorted(whole for _, times in runs for _, whole in times)
    return {
        "req_per_s": round(sum(count for count, _ in runs) / (len(runs) * seconds)),
        "first_ms_p50": round(1000 * median(firsts), 2),
        "p50_ms": round(1000 * median(wholes), 2),
        "p99_ms": round(1000 * wholes[int(0.99 * (len(wholes) - 1))], 2),
    }


# -- routes


@contextmanager
def running(words: list[str], port: int, **environment: str) -> Iterator[str]:
    popen = subprocess.Popen(
        words,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until_up(port, popen)
        yield f"http://127.0.0.1:{port}"
    finally:
        popen.terminate()
        popen.wait(20)


def until_up(port: int, popen: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and popen.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{popen.args} does not listen")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def seed(upstream: str) -> None:
    """Write a host with an active model, as a switch would."""
    import django

    django.setup()
    from django.core.management import call_command

    from switcher.audit.ledger import SERVER
    from switcher.domain.specs import Spec
    from switcher.models import Host
    from switcher.records import config

    call_command("migrate", verbosity=0)
    host = config.save_host(Host(name="bench", base_url=upstream), SERVER)
    active = {"active_tag": "bench", "active_digest": "bench"}
    Host.objects.filter(pk=host.pk).update(active_spec=Spec("", "bench").to_json(), **active)


def start_routes(stack: ExitStack, data: str, workers: int) -> dict[str, str]:
    """Start every route to the same upstream, and return their addresses."""
    port = free_port()
    words = [sys.executable, __file__, UPSTREAM, str(port)]
    upstream = stack.enter_context(running(words, port))
    seed(upstream)
    addresses = {"direct": upstream}
    manage = [sys.executable, "manage.py"]
    ours = {
        "ours, 1": [*manage, "gateway", "--workers", "1"],
        f"ours, {workers}": [*manage, "gateway", "--workers", str(workers)],
        "ours, server": [*manage, "serve"],
    }
    for name, words in ours.items():
        port = free_port()
        started = running([*words, "--port", str(port)], port, SWITCHER_OPEN_GATEWAY="no-proxy")
        addresses[name] = stack.enter_context(started)
    if shutil.which("llama-swap"):
        port, path = free_port(), Path(data, "llama-swap.yaml")
        model = {"proxy": upstream, "cmd": "sleep 3600", "checkEndpoint": "none"}
        model["concurrencyLimit"] = 1000  # the default refuses more than 10 at once
        path.write_text(json.dumps({"models": {"bench": model}}))
        words = ["llama-swap", "--config", str(path), "--listen", f"127.0.0.1:{port}"]
        addresses["llama-swap"] = stack.enter_context(running(words, port))
    if shutil.which("litellm"):
        port, path = free_port(), Path(data, "litellm.yaml")
        params = {"model": "openai/bench", "api_base": f"{upstream}/v1", "api_key": "none"}
        path.write_text(
            json.dumps({"model_list": [{"model_name": "bench", "litellm_params": params}]})
        )
        words = ["litellm", "--config", str(path), "--port", str(port)]
        # No key, and the bundled prices, so that nothing is downloaded.
        local = {
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }
        addresses["litellm"] = stack.enter_context(running(words, port, **local))
    return addresses


def measure(addresses: dict[str, str], rounds: int, seconds: float) -> list[dict[str, Any]]:
    rows = []
    for clients, stream in itertools.product(CLIENTS, (False, True)):
        runs: dict[str, list[Any]] = {name: [] for name in addresses}
        for _ in range(rounds):
            for name, url in addresses.items():
                runs[name].append(asyncio.run(load(url, clients, stream, seconds)))
        for name, results in runs.items():
            measured = {"way": name, "clients": clients, "stream": stream}
            rows.append(measured | summarize(results, seconds))
            print(_line(rows[-1]), flush=True)
    return rows


HEAD = (
    f"{'way':<13}{'clients':>8}{'answer':>8}{'req/s':>9}{'first p50':>11}{'p50':>9}{'p99':>9}  (ms)"
)


def _line(row: dict[str, Any]) -> str:
    kind = "stream" if row["stream"] else "JSON"
    numbers = f"{row['req_per_s']:>9,}{row['first_ms_p50']:>11.2f}{row['p50_ms']:>9.2f}"
    return f"{row['way']:<13}{row['clients']:>8}{kind:>8}{numbers}{row['p99_ms']:>9.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the gateway.")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=4, help="processes of the second gateway")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as data, ExitStack() as stack:
        os.environ["SWITCHER_DATA_DIR"] = data
        os.environ["SWITCHER_LOG_LEVEL"] = "ERROR"
        os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
        sys.path.insert(0, str(ROOT))
        addresses = start_routes(stack, data, args.workers)
        print(HEAD)
        rows = measure(addresses, args.rounds, args.seconds)
    print(json.dumps({"workers": args.workers, "rounds": args.rounds, "rows": rows}))


if __name__ == "__main__":
    if sys.argv[1:2] == [UPSTREAM]:
        serve_upstream(int(sys.argv[2]))
    else:
        main()
