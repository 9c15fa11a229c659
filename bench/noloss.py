#!/usr/bin/env python3
"""Requests during switches: none may fail, be cut, or be answered by a model that is not active.

    bench/noloss.py [--requests 10000] [--switches 50] [--clients 16] [--gateways 2]
                    [--ollama URL --models A B]

Starts a server with a database in a temporary folder, and more gateway processes on it. Clients of
all three APIs, half of them streaming, send requests without a pause while the model is switched
back and forth, with both strategies in turn; every fifth switch fails after its warm-up and is
rolled back. During two switches one gateway process is paused for so long that it is considered
dead. Without --ollama a simulated host is started.

Each reply is compared with what was active between sending the request and the first byte. A
simulated host also reports how often it loaded a model: more loads than the switches requested mean
that a late request made it reload an old model.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[1]
FAILURE_EVERY = 5  # switches
STRATEGIES = ("overlap", "swap")


@dataclass(frozen=True, slots=True)
class Answer:
    """A request and its reply. `sent`, `first` and `ended` are wall-clock seconds."""

    kind: str
    sent: float
    first: float
    ended: float
    model: str
    problem: str = ""  # failed or cut, and why


@dataclass(slots=True)
class Run:
    """A run's inputs and results."""

    url: str
    models: tuple[str, str]
    gateways: list[str]
    server: str
    token: str
    cookie: str
    answers: list[Answer] = field(default_factory=list)
    switches: list[dict[str, Any]] = field(default_factory=list)
    over: bool = False
    pause: Callable[[], Coroutine[Any, Any, None]] | None = None
    loads: int | None = None  # of models, if the host tells


# -- clients


KINDS = {
    "openai": ("/v1/chat/completions", False),
    "openai-stream": ("/v1/chat/completions", True),
    "ollama": ("/api/chat", False),
    "ollama-stream": ("/api/generate", True),
    "openai-text": ("/v1/completions", False),
    "responses-stream": ("/v1/responses", True),
    "anthropic": ("/v1/messages", False),
    "anthropic-stream": ("/v1/messages", True),
}
SIGNS_OF_LIFE = (b": waiting\n\n", b'event: ping\ndata: {"type":"ping"}\n\n')


def body_of(kind: str) -> dict[str, Any]:
    path, stream = KINDS[kind]
    asked: dict[str, Any] = {"model": "gpt-4o", "stream": stream}
    if path == "/api/generate":
        return asked | {"prompt": "Hello", "options": {"num_predict": 4}}
    if path == "/v1/completions":
        return asked | {"prompt": "Hello", "max_tokens": 4}
    if path == "/v1/responses":
        return asked | {"input": "Hello", "max_output_tokens": 4}
    asked["messages"] = [{"role": "user", "content": "Hello"}]
    return asked | ({"max_tokens": 4} if "v1" in path else {"options": {"num_predict": 4}})


def is_sign_of_life(part: bytes) -> bool:
    """Return whether a part only says that the reply has not begun yet."""
    for sign in SIGNS_OF_LIFE:
        part = part.replace(sign, b"")
    return not part.strip(b" ")


def is_whole(kind: str, body: bytes) -> bool:
    """Return whether a reply is complete."""
    if kind == "responses-stream":
        return b"event: response.completed" in body or b"event: response.incomplete" in body
    if kind == "anthropic":
        return b'"stop_reason":"' in body and b'"type":"error"' not in body
    if kind == "anthropic-stream":
        return b"event: message_stop" in body and b"event: error" not in body
    if kind == "openai-stream":
        return b"data: [DONE]" in body and b'"error"' not in body
    if kind.startswith("ollama"):
        return b'"done":true' in body and b'"error"' not in body
    return b'"choices"' in body


async def ask(session: aiohttp.ClientSession, address: str, kind: str, run: Run) -> Answer:
    sent = first = time.time()
    model, problem, parts = "", "", []
    try:
        headers = {"Authorization": f"Bearer {run.token}"}
        path = address + KINDS[kind][0]
        async with session.post(path, json=body_of(kind), headers=headers) as answer:
            model = answer.headers.get("x-switchboard-model", "")
            async for part in answer.content.iter_any():
                if is_sign_of_life(part):
                    continue
                first = first if parts else time.time()
                parts.append(part)
            if answer.status != 200:
                problem = f"failed: {answer.status} {b''.join(parts)[:120]!r}"
        said = re.search(rb'"model": ?"([^"]+)"', b"".join(parts))
        if not problem and not is_whole(kind, b"".join(parts)):
            problem = f"cut: {b''.join(parts)[-80:]!r}"
        if said and not model:  # it waited so long that its head was sent early
            model = said[1].decode()
        # Some hosts name the model, and the gateway's header has to agree.
        if said and not problem and said[1].decode().split(":")[0] != model.split(":")[0]:
            problem = f"failed: the host says {said[1]!r}, the gateway {model}"
    except (aiohttp.ClientError, OSError) as exc:
        problem = f"{'cut' if parts else 'failed'}: {exc!r}"
    return Answer(kind, sent, first, time.time(), model, problem)


async def send_requests(number: int, run: Run, min_requests: int) -> None:
    kinds = itertools.islice(itertools.cycle(KINDS), number % len(KINDS), None)
    address = run.gateways[number % len(run.gateways)]
    timeout = aiohttp.ClientTimeout(total=None, sock_read=180)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while not run.over or len(run.answers) < min_requests:
            run.answers.append(await ask(session, address, next(kinds), run))


async def run_clients(run: Run, clients: int, min_requests: int) -> None:
    await asyncio.gather(*(send_requests(n, run, min_requests) for n in range(clients)))


# -- switches


async def switch_back_and_forth(run: Run, count: int, pause_s: float) -> None:
    timeout = aiohttp.ClientTimeout(total=600)
    headers = {"Cookie": f"session_id={run.cookie}"}
    async with aiohttp.ClientSession(timeout=timeout, headers=headers) as session:
        target = 1
        for number in range(count):
            fails = number % FAILURE_EVERY == FAILURE_EVERY - 1
            profile = f"{'fails' if fails else 'works'}-{target}"
            body = {
                "profile": profile,
                "strategy": STRATEGIES[number % 2],
                "reason": "a bench",
            }
            address = f"{run.server}/ollama/models/switch"
            paused = None
            if run.pause is not None and number - count // 2 in (0, 1):  # one of each strategy
                paused = asyncio.create_task(run.pause())
            async with session.post(address, json=body) as answer:
                outcome = await answer.json(content_type=None)
                if (answer.status == 200) == fails:
                    raise SystemExit(f"switch {number} to {profile}: {answer.status} {outcome}")
            if paused is not None:
                await paused
            target = target if fails else 1 - target
            await asyncio.sleep(pause_s)
    run.over = True


# -- judging


@dataclass(frozen=True, slots=True)
class Span:
    """A time span in which a model was active."""

    model: str
    since: float
    until: float


def spans_of(activations: list[tuple[float, str]]) -> list[Span]:
    ends = [at for at, _ in activations[1:]] + [float("inf")]
    return [Span(m, at, end) for (at, m), end in zip(activations, ends, strict=True)]


def is_wrong(answer: Answer, spans: list[Span]) -> bool:
    """Return whether its model was not active at any time between sending and first byte.

    The time of an activation is that of its transaction, just before others can see it, so it does
    not excuse any request.
    """
    active = {s.model for s in spans if s.since <= answer.first and s.until >= answer.sent}
    return answer.model not in active


def figures(run: Run, spans: list[Span], switches: list[dict[str, Any]]) -> dict[str, Any]:
    whole = [a for a in run.answers if not a.problem]
    kinds = Counter(a.problem.split(":")[0] for a in run.answers if a.problem)
    row: dict[str, Any] = {
        "requests": len(run.answers),
        "switches": len(switches),
        "rolled_back": sum(s["state"] == "rolled_back" for s in switches),
        "failed": kinds["failed"],
        "cut": kinds["cut"],
        "wrong_model": sum(is_wrong(a, spans) for a in whole),
        "loaded_again": loaded_again(run, switches),
        "streamed": sum(a.kind.endswith("stream") for a in run.answers),
    }
    quiet = [a.first - a.sent for a in whole if not _during(a, switches)]
    usual = median(quiet) if quiet else 0.0
    row["usual_first_byte_ms"] = round(1000 * usual, 1)
    for strategy in STRATEGIES:
        of_strategy = [s for s in switches if s["strategy"] == strategy]
        added = sorted(a.first - a.sent - usual for a in whole if _during(a, of_strategy))
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            at = min(len(added) - 1, int(share * len(added)))
            value = round(1000 * max(0.0, added[at]), 1) if added else None
            row[f"{strategy}_added_ms_{name}"] = value
    return row


def loaded_again(run: Run, switches: list[dict[str, Any]]) -> int | None:
    """Return how many loads no switch had requested; None if the host does not report loads.

    Every switch loads its target, even the first one, which `switches` leaves out. A failed swap
    reloads the old model.
    """
    if run.loads is None:
        return None
    restored = [s for s in switches if (s["state"], s["strategy"]) == ("rolled_back", "swap")]
    return run.loads - 1 - len(switches) - len(restored)


async def loads_of(url: str) -> int:
    """Return how often a simulated host has loaded a model."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/_sim/state") as answer:
        return sum((await answer.json())["loads"].values())


def _during(answer: Answer, switches: list[dict[str, Any]]) -> bool:
    return any(s["from"] <= answer.first and s["until"] >= answer.sent for s in switches)


# -- processes


PAUSE_S = 6.0  # more than inflight.DEAD_AFTER_S


async def pause(popen: subprocess.Popen[str]) -> None:
    """Pause a process for PAUSE_S, as on a machine that is suspended or swapping."""
    popen.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(PAUSE_S)
    finally:
        popen.send_signal(signal.SIGCONT)


@contextmanager
def process(
    *args: str, wait_for: str, **environment: str
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a process while the block lasts; yield the first group of `wait_for` in its output."""
    popen = subprocess.Popen(
        [sys.executable, *args],
        cwd=ROOT,
        env=os.environ | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines: list[str] = []
    try:
        assert popen.stdout is not None
        for line in popen.stdout:
            lines.append(line)
            if found := re.search(wait_for, line):
                break
        else:
            raise SystemExit("".join(lines))
        threading.Thread(target=popen.stdout.read, daemon=True).start()
        yield found[1], popen
    finally:
        popen.terminate()
        popen.wait(20)


def seed(url: str, models: tuple[str, str]) -> tuple[str, str]:
    """Create a host, working and failing profiles; return a key and a session."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.auth.models import User
    from django.contrib.sessions.backends.db import SessionStore

    from switcher.audit.ledger import SERVER as ACTOR
    from switcher.models import Host, ModelProfile
    from switcher.records import config, keys

    config.save_host(Host(name="bench", base_url=url, vram_bytes=64_000_000_000), ACTOR)
    for number, tag in enumerate(models):
        config.save_profile(ModelProfile(name=f"works-{number}", tag=tag), ACTOR)
        # No model is that fast: the switch fails after the warm-up, when the old model may be
        # unloaded.
        fails = ModelProfile(name=f"fails-{number}", tag=tag, min_tokens_per_s=1e9)
        config.save_profile(fails, ACTOR)
    _, token = keys.make_key(keys.NewKey("bench"), ACTOR)
    user = User.objects.create_superuser("bench")
    store = SessionStore()
    store[SESSION_KEY] = str(user.pk)
    store[BACKEND_SESSION_KEY] = "switcher.access.RoleBackend"
    store[HASH_SESSION_KEY] = user.get_session_auth_hash()
    store.save()
    return token, str(store.session_key)


def activations() -> list[tuple[float, str]]:
    """Return when which model became active."""
    from switcher.models import AuditEntry

    rows = AuditEntry.objects.filter(kind="host.activated").order_by("pk")
    return [(row.at.timestamp(), row.facts["model"]) for row in rows]


def ended_switches() -> list[dict[str, Any]]:
    from switcher.models import SwitchEvent

    return [
        {
            "state": row.state,
            "strategy": row.strategy,
            "from": row.created_at.timestamp(),
            "until": row.ended_at.timestamp() if row.ended_at else time.time(),
        }
        for row in SwitchEvent.objects.order_by("pk")[1:]
    ]


def run_all(
    requests: int,
    switches: int,
    clients: int,
    gateways: int,
    url: str = "",
    models: tuple[str, str] = ("mid-a", "mid-b"),
    pause_s: float = 0.3,
) -> tuple[dict[str, Any], Run]:
    """Run once and return the figures. Expects Django with an empty database."""
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    simulated = not url
    with ExitStack() as stack:
        if simulated:
            sizes = [f"--model={tag}=8GB" for tag in models]
            simulator = ("-m", "ollama_simulator", "--port", "0", "--vram", "64GB")
            speed = ("--tokens-per-s", "200", "--load-rate", "16GB", "--parallel", "16")
            words = (*simulator, *speed, *sizes)
            url, _ = stack.enter_context(process(*words, wait_for=r"(http://\S+:\d+)"))
        token, cookie = seed(url, models)
        serve = ("manage.py", "serve", "--port", "0")
        server, _ = stack.enter_context(process(*serve, wait_for=r"listens on (http://\S+?)/"))
        addresses, apart = [server], None
        for _ in range(gateways):
            words = ("manage.py", "gateway", "--port", str(free_port()), "--workers", "1")
            started = process(*words, wait_for=r"listens on (http://\S+?)/")
            address, apart = stack.enter_context(started)
            addresses.append(address)
        run = Run(url, models, addresses, server, token, cookie)
        run.pause = partial(pause, apart) if apart is not None else None
        asyncio.run(go(run, requests, switches, clients, pause_s))
        run.loads = asyncio.run(loads_of(url)) if simulated else None
    rows = ended_switches()
    return figures(run, spans_of(activations()), rows), run


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def go(run: Run, requests: int, switches: int, clients: int, pause_s: float) -> None:
    await until_up(run)
    first = {"profile": "works-0", "reason": "a bench"}
    headers = {"Cookie": f"session_id={run.cookie}"}
    address = f"{run.server}/ollama/models/switch"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(address, json=first) as answer,
    ):
        if answer.status != 200:
            raise SystemExit(await answer.text())
    work = asyncio.create_task(run_clients(run, clients, requests))
    try:
        await switch_back_and_forth(run, switches, pause_s)
    finally:
        run.over = True
        await work


async def until_up(run: Run) -> None:
    """Wait until every gateway answers, as a process announces itself just before it listens."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(30):
        for address in run.gateways:
            while True:
                try:
                    async with session.get(f"{address}/v1/models"):
                        break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description="Requests during switches.")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--switches", type=int, default=50)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument(
        "--gateways", type=int, default=2, help="gateway processes in addition to the server"
    )
    parser.add_argument("--ollama", default="", help="a server; default: a simulated one")
    parser.add_argument("--models", nargs=2, default=("mid-a", "mid-b"))
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between two switches")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as data:
        os.environ["SWITCHER_DATA_DIR"] = data
        os.environ["SWITCHER_LOG_LEVEL"] = "ERROR"
        os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
        sys.path.insert(0, str(ROOT))
        import django

        django.setup()
        row, run = run_all(
            args.requests,
            args.switches,
            args.clients,
            args.gateways,
            args.ollama,
            tuple(args.models),
            args.pause,
        )
    for answer in [a for a in run.answers if a.problem][:10]:
        print(answer)
    for name, value in row.items():
        print(f"{name:<24}{'-' if value is None else value:>12}")
    print(json.dumps(row))
    wrong = ("failed", "cut", "wrong_model", "loaded_again")
    sys.exit(1 if any(row[name] for name in wrong) else 0)


if __name__ == "__main__":
    main()
