"""`hosts`: list, add, remove, and what their clients get."""

from __future__ import annotations

from argparse import SUPPRESS
from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser

from switcher.domain.specs import check_address, check_keep_alive
from switcher.domain.states import Strategy
from switcher.management.terminal import (
    TerminalCommand,
    actor,
    check_name,
    size_bytes,
    size_text,
)
from switcher.presentation.clients import clients_page
from switcher.presentation.wording import POLICY_WORDS
from switcher.queries.hosts import HostSettings, host, hosts
from switcher.records import config
from switcher.records.clients import POLICIES, drop_name, put_name, set_clients
from switcher.switching.published_name import publish

CLIENTS_HEAD = ("A CLIENT THAT NAMES", "GETS", "PROFILE", "ON THE HOST")
HEAD = ("NAME", "ADDRESS", "VRAM", "STRATEGY", "ACTIVE", "")


class Command(TerminalCommand):
    help = "List hosts, add and remove them; `hosts clients` says what their clients get."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="the list as JSON")
        ways = "add | remove | clients | policy | name | unname | publish"
        actions = parser.add_subparsers(dest="action", metavar=ways)
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
        _add_clients_arguments(actions)
        _add_publish_arguments(actions)

    def run(self, **options: Any) -> int:
        acts = {
            "add": self._add,
            "remove": self._remove,
            "clients": self._clients,
            "policy": self._policy,
            "name": self._name,
            "unname": self._unname,
            "publish": self._publish,
        }
        acts.get(options["action"], self._list)(options)
        return 0

    def _remove(self, options: dict[str, Any]) -> None:
        config.remove_host(host(options["name"]).id, actor())
        self.say(f"Removed {options['name']}. Its history stays; the host was not touched.")

    def _policy(self, options: dict[str, Any]) -> None:
        set_clients(host(options["host"]).id, actor(), policy=options["policy"])
        self.say(POLICY_WORDS[options["policy"]])

    def _name(self, options: dict[str, Any]) -> None:
        found = host(options["host"])
        name = put_name(found.id, options["name"], options["profile"], actor())
        self.say(f"Clients of {found.name} that name {name} get profile {options['profile']}.")
        if found.gateway_policy == "active":
            self.say(f"Not yet: the policy is active. Change it: hosts policy {found.name} names")

    def _unname(self, options: dict[str, Any]) -> None:
        found = host(options["host"])
        name = drop_name(found.id, options["name"], actor())
        self.say(f"{name} is no name of {found.name} any more.")

    def _publish(self, options: dict[str, Any]) -> None:
        found = host(options["host"])
        later = publish(found.id, options["name"], actor())
        if later:
            self.say(f"Saved, and done as soon as it can be. {later}")
        elif options["name"]:
            self.say(
                f"{options['name']} on {found.name} itself means its active model from now on."
            )
        else:
            self.say(f"{found.name} publishes its active model by no name any more.")

    def _clients(self, options: dict[str, Any]) -> None:
        page = clients_page(options["host"])
        if options["json"]:
            self.say_json({"host": page.host, "policy": page.policy, "names": dict(page.names),
                           "clients": [asdict(row) for row in page.rows]})  # fmt: skip
            return
        self.say(f"{page.host}, policy {page.policy}. {page.words}")
        rows = [(r.name or "anything else", r.model, r.profile, r.word) for r in page.rows]
        self.say_table(CLIENTS_HEAD, rows)
        if page.unused:
            self.say(f"Names that mean nothing under this policy: {', '.join(page.unused)}.")

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

    def _list(self, options: dict[str, Any]) -> None:
        found = hosts()
        if options["json"]:
            self.say_json([_json(each) for each in found])
        elif not found:
            self.say("There is no host yet. Add one: hosts add NAME http://ADDRESS:11434")
        else:
            self.say_table(HEAD, [_row(each) for each in found])


def _add_clients_arguments(actions: Any) -> None:
    clients = actions.add_parser("clients", help="what a client gets by each name right now")
    # Its value must not undo a `--json` that stands before the word.
    clients.add_argument("--json", action="store_true", default=SUPPRESS, help="as JSON")
    clients.add_argument("host", metavar="HOST")
    policy = actions.add_parser("policy", help="what a client gets: active, names or strict")
    policy.add_argument("host", metavar="HOST")
    policy.add_argument("policy", choices=POLICIES)
    name = actions.add_parser("name", help="let a name stand for a profile")
    name.add_argument("host", metavar="HOST")
    name.add_argument("name", metavar="NAME")
    name.add_argument("profile", metavar="PROFILE")
    unname = actions.add_parser("unname", help="let a name stand for nothing any more")
    unname.add_argument("host", metavar="HOST")
    unname.add_argument("name", metavar="NAME")


def _add_publish_arguments(actions: Any) -> None:
    name = actions.add_parser("publish", help="a name on Ollama itself that means the active model")
    name.add_argument("host", metavar="HOST")
    name.add_argument("name", metavar="NAME", nargs="?", default="", help="none: no name any more")


def _row(host: HostSettings) -> tuple[str, ...]:
    marks = [m for m, on in (("default", host.is_default), ("simulated", host.simulated)) if on]
    return (
        host.name,
        host.base_url,
        size_text(host.vram_bytes) if host.vram_bytes else "not set",
        host.strategy,
        host.active.model if host.active else "",
        ", ".join(marks),
    )


def _json(host: HostSettings) -> dict[str, Any]:
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
