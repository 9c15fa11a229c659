"""Compares switching by this product and by a shell script, on the same server, interleaved.

    python bench/switch.py http://127.0.0.1:11434 mid-a mid-b [-n 10]

Each round switches A → B → A in each way: `overlap` and `swap` by this product (recorded, verified,
audited, in a database of its own), `bash` as a shell script does: `ollama stop old`, then a run of
the new one with "Hello". The last line is JSON. Seconds are wall-clock for the whole switch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def prepare() -> None:
    """Create a separate database, which is deleted at the end."""
    os.environ["SWITCHER_DATA_DIR"] = tempfile.mkdtemp(prefix="switchboard-bench-")
    os.environ["SWITCHER_LOG_LEVEL"] = "ERROR"
    os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def by_bash(url: str, old: str, new: str) -> None:
    """Make the requests of `ollama stop OLD; echo Hello | ollama run NEW`."""
    import requests

    stop = {"model": old, "keep_alive": 0}
    requests.post(f"{url}/api/generate", json=stop, timeout=60).raise_for_status()
    # `ollama run` loads first, then sends the prompt, and prints the answer to its end.
    load = {"model": new, "prompt": ""}
    requests.post(f"{url}/api/generate", json=load, timeout=600).raise_for_status()
    hello = {"model": new, "prompt": "Hello", "stream": False, "options": {"num_predict": 8}}
    requests.post(f"{url}/api/generate", json=hello, timeout=600).raise_for_status()


def by_us(strategy: str) -> Callable[[str, str, str], None]:
    """Return a function that runs a whole switch as the product does."""
    from switcher.audit.ledger import Actor
    from switcher.models import SwitchEvent
    from switcher.switching.service import SwitchRequest, request_switch
    from switcher.switching.worker import run_once

    def go(url: str, old: str, new: str) -> None:
        wish = SwitchRequest(model=new, strategy=strategy, reason="bench")
        row, _ = request_switch(wish, Actor("bench", "command"))
        run_once(row.pk)
        ended = SwitchEvent.objects.get(pk=row.pk)
        if ended.state != "active":
            raise SystemExit(f"{strategy}: {ended.state}: {ended.error}")

    return go


def clean(url: str, tags: tuple[str, str]) -> None:
    """Unload both models and wait until they are gone."""
    from switcher.domain.model_names import ModelName
    from switcher.ollama.client import Client

    client = Client(url)
    for tag in tags:
        client.unload(tag)
    until = time.monotonic() + 60
    names = {ModelName.parse(tag) for tag in tags}
    while any(r.name in names for r in client.resident()):
        if time.monotonic() > until:
            raise SystemExit("the models were not unloaded")
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("url")
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("-n", type=int, default=10, help="rounds of A → B → A in each way")
    args = parser.parse_args()
    prepare()
    from switcher.audit.ledger import SERVER
    from switcher.models import Host
    from switcher.records import config

    config.save_host(Host(name="bench", base_url=args.url, vram_bytes=10**12), SERVER)
    ways = {"overlap": by_us("overlap"), "swap": by_us("swap"), "bash": by_bash}
    took: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.n):
        for way, go in ways.items():
            clean(args.url, (args.a, args.b))
            # Make A active first, in the same way.
            go(args.url, args.b, args.a)
            for old, new in ((args.a, args.b), (args.b, args.a)):
                began = time.monotonic()
                go(args.url, old, new)
                took[way].append(time.monotonic() - began)
    report(took)


def report(took: dict[str, list[float]]) -> None:
    print(f"{'way':<10}{'n':>5}{'p50 s':>9}{'p95 s':>9}{'min s':>9}{'max s':>9}")
    figures: dict[str, dict[str, float]] = {}
    for way, times in took.items():
        p95 = statistics.quantiles(times, n=20)[-1] if len(times) > 1 else times[0]
        row = {
            "n": len(times),
            "p50_s": round(statistics.median(times), 3),
            "p95_s": round(p95, 3),
            "min_s": round(min(times), 3),
            "max_s": round(max(times), 3),
        }
        figures[way] = row
        print(
            f"{way:<10}{row['n']:>5}{row['p50_s']:>9.3f}{row['p95_s']:>9.3f}"
            f"{row['min_s']:>9.3f}{row['max_s']:>9.3f}"
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
