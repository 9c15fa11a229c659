"""`status`: what each host holds now, as `ollama ps` shows it, and what is wrong."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandParser

from switcher.domain.observed import Observation, Resident, find_digest
from switcher.management.terminal import (
    NO_HOSTS,
    TerminalCommand,
    marks_text,
    size_text,
    until_text,
)
from switcher.ollama.client import Client
from switcher.queries.drifts import open_drifts
from switcher.queries.hosts import ActiveModel, HostSettings, host, hosts
from switcher.queries.readings import by_model_names
from switcher.queries.switches import switch_detail

HEAD = ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL", "")
MAX_READERS = 16


class Command(TerminalCommand):
    help = "Show what each host holds now, which model is active, and what is wrong."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="", help="name of a host; else all")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def run(self, **options: Any) -> int:
        found = [host(options["host"])] if options["host"] else hosts()
        readings = zip(found, read(found), strict=True)
        if options["json"]:
            self.say_json([status_json(each, seen) for each, seen in readings])
        elif not found:
            self.say(NO_HOSTS)
        else:
            for number, (each, seen) in enumerate(readings):
                if number:
                    self.say()
                self._show(each, seen)
        return 0

    def _show(self, host: HostSettings, seen: Observation) -> None:
        marks = marks_text(host.is_default, host.simulated)
        version = f", Ollama {seen.version}" if seen.version else ""
        self.say(f"{host.name}{f' ({marks})' if marks else ''} at {host.base_url}{version}")
        if seen.answered and seen.resident:
            self.say_table(HEAD, [_row(r, host, seen.at) for r in seen.resident])
        elif seen.answered:
            self.say("No model is loaded.")
        for text in warnings(host, seen):
            self.say(f"Warning: {text}")


def read(hosts: list[HostSettings]) -> list[Observation]:
    """Read all hosts at once, so that a hanging one delays the others by at most 5 s."""
    if not hosts:
        return []
    with ThreadPoolExecutor(min(MAX_READERS, len(hosts))) as pool:
        seen = list(pool.map(_read, hosts))
    return [by_model_names(host.id, each) for host, each in zip(hosts, seen, strict=True)]


def _read(host: HostSettings) -> Observation:
    client = Client(host.server)
    try:
        return client.observe(datetime.now(UTC))
    finally:
        client.close()


def _row(r: Resident, host: HostSettings, now: datetime) -> tuple[str, ...]:
    return (
        r.name.short,
        r.digest[:12],
        size_text(r.size),
        processor(r),
        str(r.context_length or ""),
        until_text(r.expires_at, r.stays, now),
        "ACTIVE" if host.active and find_digest((r,), host.active.digest) else "",
    )


def processor(r: Resident) -> str:
    """Return where a model runs, in Ollama's own words."""
    if r.gpu_percent in (0, 100):
        return f"100% {'GPU' if r.gpu_percent else 'CPU'}"
    return f"{100 - r.gpu_percent}%/{r.gpu_percent}% CPU/GPU"


def warnings(host: HostSettings, seen: Observation) -> list[str]:
    """Return what is wrong with a host, or about to change."""
    found, active = [], host.active
    if host.open_switch is not None:
        row = switch_detail(host.open_switch)
        found.append(f"switch {row.id} to {row.model} is under way: {row.state.value}")
    if active is not None and host.degraded:
        found.append(f"degraded: {host.degraded}")
    if not seen.answered:
        should = f" {active.model} should be active there." if active else ""
        return [*found, f"{seen.error}{should}"]
    if active is None:
        return [*found, "no model is active"]
    if host.open_switch is None:
        # Drift recorded by the watcher or, if none runs, shown by this reading alone.
        found += [d.text for d in open_drifts(host.id)] or _drift(active, seen)
    return found


def _drift(active: ActiveModel, seen: Observation) -> list[str]:
    loaded = find_digest(seen.resident, active.digest)
    if loaded is None:
        other = next((r for r in seen.resident if r.name == active.name), None)
        if other is not None:  # fact 23
            return [f"{active.model} is loaded with other content ({other.digest[:12]})"]
        return [f"{active.model} is active, but not loaded"]
    context, floor = active.spec.num_ctx, active.spec.min_gpu_percent
    if context is not None and loaded.context_length != context:  # fact 12
        return [f"{active.model} is loaded with context {loaded.context_length}, not {context}"]
    if floor and loaded.gpu_percent < floor:
        share = f"{loaded.gpu_percent} % of {active.model} is on the GPU"
        return [f"{share}; it should be {floor} %"]
    return []


def status_json(host: HostSettings, seen: Observation) -> dict[str, Any]:
    active = host.active
    return {
        "host": host.name,
        "base_url": host.base_url,
        "simulated": host.simulated,
        "default": host.is_default,
        "active": {"model": active.name.full, "digest": active.digest} if active else None,
        "open_switch": host.open_switch,
        "version": seen.version or None,
        "resident": [
            r.to_json()
            | {"gpu_percent": r.gpu_percent, "active": bool(active and r.digest == active.digest)}
            for r in seen.resident
        ],
        "observed_at": seen.at.isoformat(),
        "error": seen.error or None,
        "warnings": warnings(host, seen),
    }
