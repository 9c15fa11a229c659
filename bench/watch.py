#!/usr/bin/env python3
"""Measures what watching many hosts costs, and how late readings are.

    bench/watch.py [--hosts 200] [--hung 40] [--seconds 60] [--evict-every 1.0]

Three runs of the watcher, each in a separate process with an empty database in a temporary folder:
two hosts with the default settings; many hosts at 1 Hz each; and the same with some that accept
connections and never answer. The simulators run in another process, pinned to one core, the watcher
to another; only the watcher's process is measured, including its handling of drift: every second,
or as set, some model is evicted, and loaded again soon after.

`late`: how long after it was due a reading of an answering host began. `seen`: how long after an
eviction by somebody else the reading without the model arrived: at 1 Hz at most a second, and half
of that in the median. `excess` is how far `seen` exceeds the longest interval. CPU is a share of
one core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median, quantiles
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

SIMULATE, WATCH = "--simulate", "--watch"
MODELS = {"mid-a": 4_700_000_000, "mid-b": 2_000_000_000}
WARM_UP_S = 20.0  # one-time work for each host is done
BACK_AFTER_S = 3.0  # time until an evicted model is loaded again


# --- the simulators' process -----------------------------------------------------------------


async def simulate(hosts: int, hung: int, every_s: float) -> None:
    """Listen on that many ports and evict some model now and then; at SIGTERM print when."""
    from ollama_simulator.faults import Fault
    from ollama_simulator.host import Host
    from ollama_simulator.runner import Config
    from ollama_simulator.server import Server
    from ollama_simulator.serving import Listener

    made, ports = [], []
    for _ in range(hosts):
        server = Server(Config(vram=24_000_000_000, load_rate=1e12))
        for tag, size in MODELS.items():
            server.add_model(tag, size)
        host = Host(server)
        listener = Listener(host, "127.0.0.1")
        await listener.start(0)
        made.append(host)
        ports.append(listener.port)
    for host in made:
        await load(host)
    digest = made[0].server.ps()[0].manifest.digest
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, hang, made[:hung], Fault)
    print(json.dumps({"ports": ports, "digest": digest}), flush=True)
    evicted: list[tuple[int, float]] = []
    evicting = asyncio.create_task(evict_some(made, hung, every_s, evicted))
    await stop.wait()
    evicting.cancel()
    print(json.dumps(evicted), flush=True)


async def load(host: Any) -> None:
    from ollama_simulator.server import Request

    async with host.turn(Request("mid-a", keep_alive=-1, empty=True)) as turn:
        await turn.until()


def hang(hosts: list[Any], fault: Any) -> None:
    """Make these hosts accept connections and never answer."""
    for host in hosts:
        host.server.faults.add(fault("hang", {"path": "/api/"}))


async def evict_some(
    hosts: list[Any], hung: int, every_s: float, evicted: list[tuple[int, float]]
) -> None:
    from ollama_simulator.faults import Fault

    chance, free = random.Random(1), list(range(hung, len(hosts)))

    async def come_back(number: int) -> None:
        await asyncio.sleep(BACK_AFTER_S)
        await load(hosts[number])
        await asyncio.sleep(BACK_AFTER_S)  # until that was noticed as well
        free.append(number)

    coming_back = []
    while True:
        await asyncio.sleep(every_s)
        if free:
            number = free.pop(chance.randrange(len(free)))
            evicted.append((number, time.monotonic()))
            await hosts[number].do(Fault("evict", {"tag": "mid-a"}))
            coming_back.append(asyncio.create_task(come_back(number)))


# --- the watcher's process -------------------------------------------------------------------


def watch(
    ports: list[int], digest: str, quiet_s: float | None, seconds: float, simulators: int
) -> None:
    """Watch for this long; print the results in the last line of the output."""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    names = seed(ports, digest)
    from switcher.records import changed
    from switcher.watching.loop import QUIET_INTERVAL_S, Watcher, latest

    late: list[tuple[int, float]] = []  # host, seconds
    readings: list[tuple[int, float, bool]] = []  # host, when, whether the model was there

    class Timed(Watcher):
        def _read(self, watched: Any) -> None:
            number = names[watched.host.name][1]
            late.append((number, self._clock.monotonic() - watched.was_due))
            super()._read(watched)

    def note(sender: object, host: str = "", **_: object) -> None:
        if sender == "reading":
            pk, number = names[host]
            seen = latest()[pk]
            readings.append((number, time.monotonic(), bool(seen.resident)))

    changed.connect(note)
    watcher = Timed() if quiet_s is None else Timed(quiet_s=quiet_s)
    watcher.start()
    time.sleep(WARM_UP_S)
    os.kill(simulators, signal.SIGUSR1)
    late.clear()
    began, cpu = time.monotonic(), cpu_s()
    time.sleep(seconds)
    took, used = time.monotonic() - began, cpu_s() - cpu
    figures = {
        "quiet_s": quiet_s or QUIET_INTERVAL_S,
        "began": began,
        "ended": began + took,
        "cpu_percent": round(100 * used / took, 1),
        "late": late,
        "readings": [r for r in readings if r[1] >= began],
        "threads": threading.active_count(),
        "rss_mib": round(memory("VmRSS"), 1),
        "peak_rss_mib": round(memory("VmHWM"), 1),
    }
    watcher.stop()
    print(json.dumps(figures), flush=True)


def seed(ports: list[int], digest: str) -> dict[str, tuple[int, int]]:
    """Create a host for each port with an active model; return row and number by name."""
    from django.utils import timezone

    from switcher.audit.ledger import SERVER
    from switcher.models import Host
    from switcher.records import config

    names = {}
    for number, port in enumerate(ports):
        host = Host(name=f"bench-{number}", base_url=f"http://127.0.0.1:{port}")
        names[host.name] = (config.save_host(host, SERVER).pk, number)
    Host.objects.update(
        active_tag="mid-a",
        active_digest=digest,
        keep_alive="forever",
        active_since=timezone.now(),
        drift_policy="report",
    )
    return names


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory(what: str) -> float:
    """Return the memory of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


# --- the runs --------------------------------------------------------------------------------


def measure(
    hosts: int, hung: int, quiet_s: float | None, seconds: float, every_s: float
) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))
    simulators = begin([SIMULATE, str(hosts), str(hung), str(every_s)], {}, cores[-1])
    try:
        told = json.loads(simulators.stdout.readline())
        wish = [WATCH, json.dumps([told["ports"], told["digest"], quiet_s, seconds])]
        with tempfile.TemporaryDirectory() as data:
            settings = {
                "SWITCHER_DATA_DIR": data,
                "DJANGO_SETTINGS_MODULE": "project.settings",
                "SWITCHER_LOG_LEVEL": "ERROR",
            }
            watcher = begin([*wish, str(simulators.pid)], settings, cores[0])
            output, _ = watcher.communicate(timeout=seconds + WARM_UP_S + 60)
        simulators.terminate()
        evicted = json.loads(simulators.communicate(timeout=15)[0])
    finally:
        simulators.kill()
        simulators.wait()
    return summed(json.loads(output.splitlines()[-1]), evicted, hosts, hung)


def begin(arguments: list[str], settings: dict[str, str], core: int) -> Any:
    return subprocess.Popen(
        [sys.executable, __file__, *arguments],
        env=os.environ | settings, text=True, stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )  # fmt: skip


def summed(
    run: dict[str, Any], evicted: list[tuple[int, float]], hosts: int, hung: int
) -> dict[str, Any]:
    seconds = run["ended"] - run["began"]
    answering = [r for r in run["readings"] if r[0] >= hung]
    late = [1000 * s for number, s in run["late"] if number >= hung]
    seen = [s for s in (seen_after(e, run) for e in evicted) if s is not None]
    return {
        "hosts": hosts,
        "hung": hung,
        "readings_per_s": round(len(answering) / seconds, 1),
        "cpu_percent": run["cpu_percent"],
        "late_ms_p50": round(median(late), 1),
        "late_ms_p99": p99(late),
        "late_ms_max": round(max(late), 1),
        "evictions": len(seen),
        "seen_ms_p50": round(median(seen), 1),
        "seen_ms_p99": p99(seen),
        "excess_ms_p99": round(max(0.0, p99(seen) - 1100 * run["quiet_s"]), 1),
        "threads": run["threads"],
        "rss_mib": run["rss_mib"],
        "peak_rss_mib": run["peak_rss_mib"],
    }


def seen_after(eviction: tuple[int, float], run: dict[str, Any]) -> float | None:
    """Return the milliseconds from an eviction until the first reading without the model, or until
    the end of the run; None for one before the run or at its very end.
    """
    number, at = eviction
    if not run["began"] <= at <= run["ended"] - BACK_AFTER_S:
        return None
    for who, when, there in run["readings"]:
        if who == number and when >= at and not there:
            return round((when - at) * 1000, 1)
    return round((run["ended"] - at) * 1000, 1)


def p99(figures: list[float]) -> float:
    return (
        round(quantiles(figures, n=100, method="inclusive")[-1], 1)
        if len(figures) > 1
        else figures[0]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what watching many hosts costs.")
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--hung", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--evict-every", type=float, default=1.0, metavar="SECONDS")
    args = parser.parse_args()
    runs = {
        "as shipped": measure(2, 0, None, args.seconds, args.evict_every),
        "all at 1 Hz": measure(args.hosts, 0, 1.0, args.seconds, args.evict_every),
        "some hung": measure(args.hosts, args.hung, 1.0, args.seconds, args.evict_every),
    }
    print(f"| what | {' | '.join(runs)} |\n|---|{'---|' * len(runs)}")
    for what in runs["as shipped"]:
        print(f"| {what.replace('_', ' ')} | {' | '.join(str(r[what]) for r in runs.values())} |")
    print(json.dumps(runs))


if __name__ == "__main__":
    if sys.argv[1:2] == [SIMULATE]:
        asyncio.run(simulate(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
    elif sys.argv[1:2] == [WATCH]:
        watch(*json.loads(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
