"""Measure verifying, appending, pages, filters and exports over N entries of the audit trail.

    python bench/audit.py --entries 1000000 [--engine sqlite] [--work DIR]

Builds a ledger of N entries with the bodies, hashes and checkpoints that the product would have
written, in a separate database that is removed at the end. PostgreSQL is measured if it is
installed. Pages are whole requests, with session and template; the smallest p95 of three rounds
counts. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SECONDS = 5.0
WRITERS = 8
TIMES, ROUNDS = 60, 3
BATCH = 10_000
CHECKPOINT_EVERY = 2_000
BEGAN = datetime(2025, 1, 6, 8, 0, tzinfo=UTC)

HOSTS = [f"north-{n}" for n in range(1, 13)]
PEOPLE = [f"person-{n}" for n in range(1, 41)]
MODELS = [f"{name}:{size}" for name in ("qwen2.5", "llama3.1", "gemma2") for size in (7, 14, 32)]
LOGINS = ("login.succeeded", "login.failed", "login.ended", "user.changed", "key.made")
REVIEWED = 20_000  # the newest entries, nearly all of them
REASONS = ("longer context for the incident summariser", "nightly evaluation run", "wrong host",
           "the team needs better answers", "release candidate under test")  # fmt: skip
STEPS = ("queued", "checking", "draining", "unloading", "loading", "warming", "verifying",
         "activating")  # fmt: skip


# -- What is written


def entries(count: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield the entries in order: mostly switches, some changes of hosts, few entries about
    people.
    """
    made = 0
    while made < count:
        host, actor = rng.choice(HOSTS), rng.choice(PEOPLE)
        if made % 100_000 == 50_000:
            host, actor = "rare-1", "rare-person"
        chance = rng.random()
        if chance < 0.002:
            some = [_entry(rng.choice(LOGINS), "", actor)]
        elif chance < 0.1:
            some = [_changed(host, actor, rng)]
        else:
            some = list(_switch(host, actor, rng, made))
        yield from some[: count - made]
        made += len(some)


def _entry(kind: str, host: str, actor: str, reason: str = "", **facts: Any) -> dict[str, Any]:
    return {"kind": kind, "host": host, "actor": actor, "reason": reason, "facts": facts}


def _changed(host: str, actor: str, rng: random.Random) -> dict[str, Any]:
    before, after = {"keep_alive": "30m"}, {"keep_alive": f"{rng.randint(1, 9)}h"}
    return _entry("host.changed", host, actor, before=before, after=after)


def _switch(host: str, actor: str, rng: random.Random, n: int) -> Iterator[dict[str, Any]]:
    model, old = rng.sample(MODELS, 2)
    digest, fence = rng.randbytes(32).hex(), n
    why = f"{rng.choice(REASONS)}, ticket {rng.randint(1, 200_000)}" if rng.random() < 0.8 else ""
    about = {"model": model, "digest": digest, "fence": fence}
    yield _entry("switch.queued", host, actor, why, model=model, previous=old, profile="chat",
                 simulated=False, state="queued")  # fmt: skip
    for step in STEPS[1:]:
        yield _entry(f"switch.{step}", host, actor, state=step, **about)
    rows = [{"digest": digest, "name": model, "size": 9_123_456_789, "size_vram": 9_123_456_789}]
    if rng.random() < 0.9:
        yield _entry("host.activated", host, actor, previous=old, previous_digest="0" * 64, **about)
        outcome = f"{model} is active on {host}."
        yield _entry("switch.active", host, actor, state="active", after=rows, outcome=outcome,
                     figures={"load_s": "4.210", "tokens_per_s": "31.500"}, **about)  # fmt: skip
    else:
        outcome = f"{model} did not become active. {old} is active again."
        yield _entry("switch.rolled_back", host, actor, state="rolled_back", after=rows,
                     outcome=outcome, restored=old, **about)  # fmt: skip


# -- Building


def build(count: int) -> float:
    """Fill the ledger up to `count` entries and return the seconds that took."""
    from django.contrib.auth.models import Group, User
    from django.db import connection

    from switcher.audit import checkpoints, immutability_triggers, text_index
    from switcher.audit.ledger import SERVER
    from switcher.models import Host, LedgerRow, Review
    from switcher.records import config

    began = time.monotonic()
    config.save_host(Host(name="north-1", base_url="http://127.0.0.1:9"), SERVER)
    checkpoints.sign()
    auditor = User.objects.create_user("auditor", is_staff=True)
    auditor.groups.add(Group.objects.get(name="auditors"))
    immutability_triggers.drop_triggers()
    with connection.cursor() as cursor:
        for name in ("words_insert",) if connection.vendor == "sqlite" else ():
            cursor.execute(f"DROP TRIGGER IF EXISTS {name}")
    _fill(count - LedgerRow.objects.count())
    Review.objects.bulk_create(
        Review(seq=seq, by="auditor", at=BEGAN)
        for seq in range(max(1, count - REVIEWED), count)
        if seq % 50
    )
    text_index.rebuild_words()
    text_index.index_words()
    immutability_triggers.make_triggers()
    _settle(connection)
    checkpoints.sign()
    return time.monotonic() - began


def _settle(connection: Any) -> None:
    """Do the maintenance that a database does by itself sooner or later."""
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE" if connection.vendor == "postgresql" else "ANALYZE")


def _fill(count: int) -> None:
    from switcher.audit.ledger import canonical, stamp
    from switcher.audit.ledger_reader import derived_columns
    from switcher.audit.paths import key_files
    from switcher.audit.verifier.switchboard_verify import Tree, leaf
    from switcher.models import Checkpoint, LedgerRow

    last = LedgerRow.objects.order_by("-seq").first()
    assert last is not None
    seq, prev = last.seq, bytes(last.hash)
    stored = LedgerRow.objects.order_by("seq").values_list("hash", flat=True)
    tree, key, rng = Tree(), key_files().check(), random.Random(7)
    tree.extend([bytes(found) for found in stored])
    at = BEGAN
    rows: list[tuple[Any, ...]] = []
    found: list[tuple[Any, ...]] = []
    notes: list[Checkpoint] = []
    for entry in entries(count, rng):
        seq, at = seq + 1, at + timedelta(seconds=rng.random() * 3)
        told = entry | {"at": stamp(at), "from": {}, "seq": seq, "source": "page", "switch": None}
        body = canonical(told | {"v": 2})
        made = leaf(prev, body)
        rows.append((seq, body, prev, made))
        cols = derived_columns(entry["kind"], entry["reason"], entry["facts"])
        found.append((seq, at, entry["kind"], entry["actor"], entry["host"], cols["model"],
                      cols["outcome"], cols["reason"]))  # fmt: skip
        prev = made
        if seq % CHECKPOINT_EVERY == 0 or len(rows) == BATCH:
            tree.extend([row[3] for row in rows[-(seq - tree.size) :]])
        if seq % CHECKPOINT_EVERY == 0:
            note = key.checkpoint(tree.size, tree.root())
            notes.append(Checkpoint(size=tree.size, note=note, tree=tree.to_text(), at=at))
        if len(rows) == BATCH:
            _insert(rows, found, notes)
    _insert(rows, found, notes)


LEDGER = "switcher_ledgerrow (seq, body, prev, hash)"
INDEX = "switcher_auditentry (seq, at, kind, actor, host, model, outcome, reason)"


def _insert(rows: list[Any], found: list[Any], notes: list[Any]) -> None:
    from django.db import connection, transaction

    from switcher.models import Checkpoint

    adapt = connection.ops.adapt_datetimefield_value
    index = [(row[0], adapt(row[1]), *row[2:]) for row in found]
    with transaction.atomic(), connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            for table, values in ((LEDGER, rows), (INDEX, index)):
                with cursor.copy(f"COPY {table} FROM STDIN") as copy:
                    for value in values:
                        copy.write_row(value)
        else:
            marks = ", ".join(["%s"] * 8)
            cursor.executemany(f"INSERT INTO {LEDGER} VALUES (%s, %s, %s, %s)", rows)
            cursor.executemany(f"INSERT INTO {INDEX} VALUES ({marks})", index)
        Checkpoint.objects.bulk_create(notes)
    rows.clear()
    found.clear()
    notes.clear()


# -- Measuring


def p95_ms(act: Callable[[], object], times: int = TIMES, rounds: int = 1) -> float:
    """Return the 95th percentile, the lowest of several rounds, as other work on the machine can
    only increase it.
    """
    return min(_p95_ms(act, times) for _ in range(rounds))


def _p95_ms(act: Callable[[], object], times: int) -> float:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        took.append((time.perf_counter() - began) * 1000)
    return round(statistics.quantiles(took, n=20)[-1], 1)


def pages(count: int) -> dict[str, float]:
    """Return the p95 of whole requests in milliseconds, by page."""
    from django.contrib.auth.models import User
    from django.test import Client

    client, rng = Client(), random.Random(3)
    client.force_login(User.objects.get(username="auditor"))

    def get(path: str) -> Callable[[], None]:
        def act() -> None:
            where = path.format(
                seq=rng.randint(count // 4, count),
                host=rng.choice(HOSTS),
                person=rng.choice(PEOPLE),
                model=rng.choice(MODELS),
                ticket=rng.randint(1, 200_000),
                day=(BEGAN + timedelta(seconds=rng.random() * count * 1.4)).date(),
            )
            response = client.get(where)
            assert response.status_code == 200, (where, response.status_code)

        return act

    return {name: p95_ms(get(path), rounds=ROUNDS) for name, path in PAGES.items()}


PAGES = {
    "list": "/audit/",
    "list_deep": "/audit/?before={seq}",
    "list_newer": "/audit/?after={seq}",
    "host": "/audit/?host={host}",
    "actor": "/audit/?actor={person}",
    "model": "/audit/?model={model}",
    "group": "/audit/?kind=switches&before={seq}",
    "rare_group": "/audit/?kind=people&before={seq}",
    "kind": "/audit/?kind=host.changed&before={seq}",
    "outcome": "/audit/?outcome=rolled_back&before={seq}",
    "time": "/audit/?since={day}&until={day}",
    "word": "/audit/?text=nightly&before={seq}",
    "rare_word": "/audit/?text=ticket+{ticket}",
    "no_word": "/audit/?text=neverwritten",
    "two_words": "/audit/?text=nightly+incident",
    "until": "/audit/?until={day}",
    "since": "/audit/?since={day}",
    "unreviewed": "/audit/?unreviewed=yes",
    "unreviewed_since": "/audit/?unreviewed=yes&since={day}",
    "host_kind": "/audit/?host={host}&kind=host.changed&before={seq}",
    "host_rare_group": "/audit/?host={host}&kind=people",
    "actor_time": "/audit/?actor={person}&since={day}&until={day}",
    "host_word": "/audit/?host={host}&text=nightly&before={seq}",
    "host_rare_word": "/audit/?host={host}&text=ticket+{ticket}",
    "word_time": "/audit/?text=nightly&since={day}&until={day}",
    "host_actor": "/audit/?host={host}&actor={person}&before={seq}",
    "host_actor_outcome": "/audit/?host={host}&actor={person}&outcome=rolled_back",
    "all_filters": "/audit/?host={host}&actor={person}&kind=switches&outcome=active&text=nightly"
    "&since=2025-01-07&unreviewed=yes",
    "rare": "/audit/?host=rare-1&actor=rare-person",
    "rare_and_common": "/audit/?host=rare-1&kind=switches&text=nightly",
    "nothing": "/audit/?host=rare-1&actor=person-1",
    "entry": "/audit/{seq}/",
    "person": "/audit/people/{person}/",
    "host_page": "/audit/hosts/{host}/",
    "when": "/audit/when/?at={day}T14:05",
}


def exports(count: int) -> dict[str, float]:
    """Return rows per second and the time to the first lines of each kind of export."""
    from switcher.audit.export import CHUNK_ENTRIES, Export, chunks
    from switcher.audit.filters import read_filters
    from switcher.domain.clock import system

    now = system.now()
    ways = {
        "jsonl": Export("jsonl", read_filters({}), None, count, "bench", now),
        "csv": Export("csv", read_filters({}), None, count, "bench", now),
        "selection": Export("jsonl", read_filters({"host": "north-2"}), None, count, "bench", now),
    }
    told: dict[str, float] = {}
    for name, export in ways.items():

        def first(export: Export = export) -> None:
            lines = chunks(export)
            assert next(lines).entries + next(lines).entries <= CHUNK_ENTRIES

        told[f"export_{name}_first_p95_ms"] = p95_ms(first, 20)
        began, rows = time.perf_counter(), 0
        for chunk in chunks(export):
            rows += chunk.entries
        told[f"export_{name}_rows_per_s"] = round(rows / (time.perf_counter() - began))
    return told


# Prints its own resource usage at exit. The figures of wait4 would include its parent's memory.
CHILD = """
import atexit, json, re, resource, runpy, sys
def tell():
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
    told = {"cpu_s": used.ru_utime + used.ru_stime, "rss_mb": int(peak) / 1024}
    print(json.dumps(told), file=sys.stderr)
atexit.register(tell)
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_child(*args: str) -> tuple[dict[str, Any], float, float]:
    """Run a process; return its JSON output, its CPU seconds and its memory in MB."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *args], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, (args, done.stderr)
    used = json.loads(done.stderr.splitlines()[-1])
    return json.loads(done.stdout), used["cpu_s"], used["rss_mb"]


def verify() -> dict[str, float]:
    """Measure `switchboard_verify.py` over an export, as auditors run it, and the server's command,
    which reads the database with Django.
    """
    from switcher.audit.paths import key_files
    from switcher.audit.verifier import switchboard_verify

    told, cpu_s, rss_mb = run_child("manage.py", "audit", "verify", "--json")
    assert told["ok"], told
    command = {"verify_command_cpu_s": round(cpu_s, 2), "verify_command_rss_mb": round(rss_mb, 1)}
    with tempfile.TemporaryDirectory(dir=os.environ["SWITCHER_DATA_DIR"]) as place:
        path = f"{place}/trail.jsonl"
        _, cpu_s, rss_mb = run_child("manage.py", "audit", "export", path, "--json")
        command |= {"export_command_cpu_s": round(cpu_s, 2)}
        command |= {"export_command_rss_mb": round(rss_mb, 1)}
        keys = ("--key", str(key_files().public), "--json")
        told, cpu_s, rss_mb = run_child(switchboard_verify.__file__, path, *keys)
        assert told["ok"], told
    return {"verify_cpu_s": round(cpu_s, 2), "verify_rss_mb": round(rss_mb, 1), **command}


def appends(writers: int) -> float:
    """Return how many entries per second this many processes append together."""
    start = time.time() + 3.0
    args = [sys.executable, __file__, "--inner", "append", "--at", str(start)]
    children = [
        subprocess.Popen(args, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(writers)
    ]
    made = 0
    for child in children:
        out, _ = child.communicate(timeout=SECONDS * 20)
        assert child.returncode == 0, out
        made += int(out.splitlines()[-1])
    return round(made / SECONDS, 1)


def append_until(start: float) -> int:
    from switcher.audit.ledger import Actor, append, writing

    actor, made = Actor("bench", "command"), 0
    time.sleep(max(0.0, start - time.time()))
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        with writing():
            append("host.changed", actor, host="north-1", reason=f"append number {made}",
                   before={"keep_alive": "30m"}, after={"keep_alive": "2h"})  # fmt: skip
        made += 1
    return made


# -- Running


def measure(count: int) -> dict[str, Any]:
    """Measure everything over one database."""
    figures: dict[str, Any] = {"entries": count, "build_s": round(build(count), 1)}
    figures |= verify()
    told = pages(count)
    figures |= {"pages_p95_ms": told, **summary(told)}
    figures |= exports(count)
    figures["append_per_s"] = appends(1)
    figures[f"append_{WRITERS}_per_s"] = appends(WRITERS)
    return figures


NOT_FILTERS = {"list", "list_deep", "list_newer", "entry", "person", "host_page", "when"}


def summary(told: dict[str, float]) -> dict[str, float]:
    lists = [told[name] for name in ("list", "list_deep", "list_newer")]
    filters = [ms for name, ms in told.items() if name not in NOT_FILTERS]
    return {"list_p95_ms": max(lists), "filter_p95_ms": max(filters), "entry_p95_ms": told["entry"]}


def setup() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
    os.environ.setdefault("SWITCHER_LOG_LEVEL", "ERROR")
    import django
    from django.conf import settings

    settings.ALLOWED_HOSTS = ["testserver"]
    django.setup()


def inner(args: argparse.Namespace) -> None:
    setup()
    if args.inner == "append":
        print(append_until(args.at))
        return
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    print(json.dumps(measure(args.entries)))


def on(engine: str, work: Path, count: int, stack: ExitStack) -> dict[str, Any] | None:
    """Return the figures of one engine; None if it is not installed."""
    data = work / engine
    data.mkdir(mode=0o700)
    os.environ["SWITCHER_DATA_DIR"] = str(data)
    os.environ.pop("SWITCHER_DATABASE_URL", None)
    if engine == "postgresql":
        from tests.killmatrix.engines import Missing, PostgreSQL

        try:
            cluster = stack.enter_context(PostgreSQL(work / "cluster", "a demo password"))
        except Missing as exc:
            print(exc, file=sys.stderr)
            return None
        database = cluster.new("audit")
        database.close()
        os.environ |= {k: v for k, v in database.env.items() if k.startswith("SWITCHER_DATA")}
    args = [sys.executable, __file__, "--inner", "all", "--entries", str(count)]
    done = subprocess.run(args, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def report(figures: dict[str, dict[str, Any]]) -> None:
    print(f"{'':<34}" + "".join(f"{engine:>14}" for engine in figures))
    first = next(iter(figures.values()))
    for name, value in first.items():
        inside = value if isinstance(value, dict) else {name: None}
        for part in inside:
            cells = [told[name][part] if isinstance(value, dict) else told[name]
                     for told in figures.values()]  # fmt: skip
            label = f"{part} p95 ms" if isinstance(value, dict) else name
            print(f"{label:<34}" + "".join(f"{cell:>14,}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--engine", choices=["sqlite", "postgresql"], help="only this one")
    parser.add_argument("--work", help="directory for the databases; default: a temporary one")
    parser.add_argument("--inner", choices=["all", "append"], help=argparse.SUPPRESS)
    parser.add_argument("--at", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inner:
        inner(args)
        return
    figures = {}
    with ExitStack() as stack:
        base = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="switchboard-bench-", dir=args.work)
        )
        for engine in [args.engine] if args.engine else ["sqlite", "postgresql"]:
            told = on(engine, Path(base), args.entries, stack)
            if told is not None:
                figures[engine] = told
        report(figures)
    main_figures = figures.get("sqlite") or next(iter(figures.values()))
    print(json.dumps({**main_figures, "engines": figures}))


if __name__ == "__main__":
    main()
