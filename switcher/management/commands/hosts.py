"""`hosts`: list, add and remove hosts; set what their clients get."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from switcher.domain.addresses import check_address
from switcher.domain.errors import BadRequest
from switcher.domain.memory import MAX_SLOTS
from switcher.domain.servers import Credentials
from switcher.domain.specs import check_keep_alive, check_name
from switcher.domain.states import Strategy
from switcher.domain.wake_on_lan import check_mac
from switcher.management.terminal import (
    NO_HOSTS,
    ListCommand,
    actor,
    marks_text,
    size_bytes,
    size_text,
    up_to,
)
from switcher.presentation.clients import POLICY_WORDS, clients_page
from switcher.queries.host_access import host_access
from switcher.queries.hosts import HostSettings, host, hosts
from switcher.queries.readings import left_over_copies
from switcher.records import config
from switcher.records.clients import POLICIES, drop_name, put_name, set_clients
from switcher.records.host_access import set_access
from switcher.switching.published_name import publish
from switcher.switching.service import remove_left_over_copies
from switcher.watching.loop import check_now
from switcher.watching.new_address import check_new_server

HEAD = ("NAME", "ADDRESS", "VRAM", "STRATEGY", "ACTIVE", "")
COPIES_HEAD = ("LEFT-OVER COPY", "DIGEST")
CLIENTS_HEAD = ("A CLIENT THAT NAMES", "GETS", "PROFILE", "ON THE HOST")


class Command(ListCommand):
    help = "List hosts, add and remove them, and set what their clients get."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        action = self.add_action
        add = action("add", self._add, "add a host", "name", "url")
        add.add_argument("--vram", type=size_bytes, metavar="24GB")
        add.add_argument("--simulated", action="store_true")
        text = "OLLAMA_MAX_LOADED_MODELS of the server, if it is set there"
        add.add_argument("--max-loaded", type=up_to(100), metavar="3", help=text)
        text = "OLLAMA_NUM_PARALLEL of the server, if it is set there"
        add.add_argument("--parallel", type=up_to(MAX_SLOTS), metavar="1", help=text)
        text = "address of the network card, to wake a machine that sleeps"
        add.add_argument("--mac", default="", metavar="00:1a:2b:3c:4d:5e", help=text)
        text = "allow switches to cloud models: prompts may leave the machine"
        add.add_argument("--allow-cloud", action="store_true", help=text)
        strategies = [strategy.value for strategy in Strategy]
        add.add_argument("--strategy", default=Strategy.AUTO.value, choices=strategies)
        add.add_argument("--keep-alive", default="30m", metavar="30m")
        text = "set credentials, as a JSON object from standard input, and certificates"
        access = action("access", self._access, text, "host")
        access.add_argument("--stdin", action="store_true", help="read credentials")
        access.add_argument("--forget", action="store_true", help="forget what is stored first")
        access.add_argument("--ca-file", metavar="FILE", help="trust only this CA (PEM)")
        verify = access.add_mutually_exclusive_group()
        verify.add_argument("--verify", action="store_true", default=None)
        verify.add_argument("--no-verify", action="store_false", dest="verify")
        text = "list model copies that another tool or an earlier data directory left"
        copies = action("copies", self._copies, text, "host")
        copies.add_argument("--remove", action="store_true", help="remove them all")
        self.add_json(copies)
        action("remove", self._remove, "remove a host; the server is not touched", "name")
        text = "what clients get for each name now"
        self.add_json(action("clients", self._clients, text, "host"))
        policy = action("policy", self._policy, "what clients get: active, names, strict", "host")
        policy.add_argument("policy", choices=POLICIES)
        action("name", self._name, "let a name stand for a profile", "host", "name", "profile")
        action("unname", self._unname, "let a name stand for nothing", "host", "name")
        text = "set a name on the Ollama server itself that follows the active model"
        name = action("publish", self._publish, text, "host")
        name.add_argument("name", metavar="NAME", nargs="?", default="", help="without it: none")

    def print_list(self, options: dict[str, Any]) -> None:
        found = hosts()
        if options["json"]:
            self.say_json([_json(each) for each in found])
        elif not found:
            self.say(NO_HOSTS)
        else:
            self.say_table(HEAD, [_row(each) for each in found])

    def _add(self, options: dict[str, Any]) -> None:
        values = {
            "name": check_name(options["name"]),
            "base_url": check_address(options["url"]),
            "vram_bytes": options["vram"],
            "simulated": options["simulated"],
            "strategy": options["strategy"],
            "max_loaded": options["max_loaded"],
            "parallel_requests": options["parallel"],
            "allows_cloud": options["allow_cloud"],
            "mac_address": check_mac(options["mac"]),
            "keep_alive": check_keep_alive(options["keep_alive"]),
        }
        check_new_server(values["base_url"])
        config.put_host(values, actor())
        self.say(f"Added {values['name']} at {values['base_url']}.")

    def _access(self, options: dict[str, Any]) -> None:
        given = Credentials.from_json(_read_json()) if options["stdin"] else None
        ca_file = options["ca_file"]
        set_access(
            host(options["host"]).id,
            actor(),
            add=given,
            forget=options["forget"],
            ca_certificate=_read_pem(ca_file) if ca_file else None,
            verify_tls=options["verify"],
        )
        now = host_access(host(options["host"]))
        self.say(f"Credentials: {', '.join(now.kinds) or 'none'}.")
        if not now.verify_tls:
            self.say("The server's certificate is not verified.")

    def _remove(self, options: dict[str, Any]) -> None:
        config.remove_host(host(options["name"]).id, actor())
        self.say(f"Removed {options['name']}. Its history stays; the host was not touched.")

    def _copies(self, options: dict[str, Any]) -> None:
        found = host(options["host"])
        if options["remove"]:
            done = remove_left_over_copies(found.name, actor())
            self.say_json(asdict(done)) if options["json"] else self.say(done.text)
            return
        check_now(found.id, found.server)
        copies = left_over_copies(found.id)
        if options["json"]:
            self.say_json([{"name": c.name.full, "digest": c.digest} for c in copies])
        elif copies:
            self.say_table(COPIES_HEAD, [(c.name.full, c.digest[:12]) for c in copies])
        else:
            self.say(f"{found.name} holds no copies that others have left.")

    def _clients(self, options: dict[str, Any]) -> None:
        page = clients_page(options["host"])
        if options["json"]:
            clients = [asdict(row) for row in page.rows]
            names = dict(page.names)
            self.say_json(
                {
                    "host": page.name,
                    "policy": page.gateway_policy,
                    "names": names,
                    "clients": clients,
                }
            )
            return
        self.say(f"{page.name}, policy {page.gateway_policy}. {page.words}")
        rows = [(r.name or "anything else", r.model, r.profile, r.word) for r in page.rows]
        self.say_table(CLIENTS_HEAD, rows)
        if page.unused:
            self.say(f"Names without effect under this policy: {', '.join(page.unused)}.")

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
        self.say(f"{name} is no longer a name on {found.name}.")

    def _publish(self, options: dict[str, Any]) -> None:
        found, name = host(options["host"]), options["name"]
        delayed = publish(found.id, name, actor())
        if delayed:
            self.say(f"Saved; it will be carried out as soon as possible. {delayed}")
        elif name:
            self.say(f"On {found.name} itself, {name} now means the active model.")
        else:
            self.say(f"{found.name} no longer publishes its active model.")


def _read_pem(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, UnicodeError) as exc:
        raise BadRequest(f"{path} cannot be read: {exc}.") from exc


def _read_json() -> object:
    """Read credentials from standard input: in arguments, other users of the machine see them."""
    try:
        return json.loads(sys.stdin.read())
    except ValueError:
        raise BadRequest("Standard input is not JSON.") from None


def _row(host: HostSettings) -> tuple[str, ...]:
    return (
        host.name,
        host.base_url,
        size_text(host.vram_bytes) if host.vram_bytes else "not set",
        host.strategy,
        host.active.model if host.active else "",
        marks_text(host.is_default, host.simulated),
    )


def _json(host: HostSettings) -> dict[str, Any]:
    return {
        "name": host.name,
        "base_url": host.base_url,
        "vram_bytes": host.vram_bytes,
        "simulated": host.simulated,
        "default": host.is_default,
        "strategy": host.strategy,
        "allows_cloud": host.allows_cloud,
        "max_loaded": host.max_loaded,
        "parallel_requests": host.parallel_requests,
        "mac_address": host.mac_address,
        "learned_max_loaded": host.learned_max_loaded,
        "active": host.active.name.full if host.active else None,
        "open_switch": host.open_switch,
    }
