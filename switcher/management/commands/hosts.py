"""`hosts`: list, add, remove."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from switcher.management.terminal import (
    TerminalCommand,
    actor,
    check_name,
    size_bytes,
    size_text,
)
from switcher.queries import api as facts
from switcher.records import config
from switcher.specs import check_address, check_keep_alive
from switcher.states import Strategy

HEAD = ("NAME", "ADDRESS", "VRAM", "STRATEGY", "ACTIVE", "")


class Command(TerminalCommand):
    help = "List hosts; `hosts add` and `hosts remove` change the list."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="the list as JSON")
        actions = parser.add_subparsers(dest="action", metavar="add | remove")
        add = actions.add_parser("add", help="add a host")
        add.add_argument("name", metavar="NAME")
        add.add_argument("url", metavar="URL")
        add.add_argument("--vram", type=size_bytes, default=None, metavar="24GB")
        add.add_argument("--simulated", action="store_true")
        add.add_argument(
            "--strategy", default=Strategy.AUTO.value, choices=[s.value for s in Strategy]
        )
        add.add_argument("--keep-alive", default="30m", metavar="30m")
        remove = actions.add_parser("remove", help="take a host off the board; it is not touched")
        remove.add_argument("name", metavar="NAME")

    def run(self, **options: Any) -> int:
        if options["action"] == "add":
            self._add(options)
        elif options["action"] == "remove":
            config.remove_host(facts.host(options["name"]).id, actor())
            self.say(f"Removed {options['name']}. Its history stays; the host was not touched.")
        else:
            self._list(options["json"])
        return 0

    def _add(self, options: dict[str, Any]) -> None:
        values = {
            "name": check_name(options["name"]),
            "base_url": check_address(options["url"]),
            "vram_bytes": options["vram"],
            "simulated": options["simulated"],
            "strategy": options["strategy"],
            "keep_alive": check_keep_alive(options["keep_alive"]),
        }
        config.put_host(values, actor())
        self.say(f"Added {values['name']} at {values['base_url']}.")

    def _list(self, as_json: bool) -> None:
        hosts = facts.hosts()
        if as_json:
            self.say_json([_json(host) for host in hosts])
        elif not hosts:
            self.say("There is no host yet. Add one: hosts add NAME http://ADDRESS:11434")
        else:
            self.say_table(HEAD, [_row(host) for host in hosts])


def _row(host: facts.HostFacts) -> tuple[str, ...]:
    marks = [m for m, on in (("default", host.is_default), ("simulated", host.simulated)) if on]
    return (
        host.name,
        host.base_url,
        size_text(host.vram_bytes) if host.vram_bytes else "not set",
        host.strategy,
        host.active.model if host.active else "",
        ", ".join(marks),
    )


def _json(host: facts.HostFacts) -> dict[str, Any]:
    return {
        "name": host.name,
        "base_url": host.base_url,
        "vram_bytes": host.vram_bytes,
        "simulated": host.simulated,
        "default": host.is_default,
        "strategy": host.strategy,
        "active": host.active.model if host.active else None,
        "open_switch": host.open_switch,
    }
