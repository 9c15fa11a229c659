"""`keys`: list, make, turn off."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser

from switcher.clock import system
from switcher.management.terminal import TerminalCommand, actor
from switcher.queries import keys as queries
from switcher.records import keys
from switcher.records.keys import NewKey

HEAD = ("ID", "NAME", "KEY", "STATE", "HOSTS", "PROFILES", "MANAGE", "LAST USED")


class Command(TerminalCommand):
    help = "List keys to the gateway; `keys make` and `keys off` change the list."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="the list as JSON")
        actions = parser.add_subparsers(dest="action", metavar="make | off")
        make = actions.add_parser("make", help="make a key; it is printed once")
        make.add_argument("name", metavar="NAME")
        make.add_argument("--host", action="append", default=[], help="only this host; repeat")
        make.add_argument("--profile", action="append", default=[], help="only this profile")
        make.add_argument("--manage", action="store_true", help="may change hosts")
        make.add_argument("--a-minute", type=int, metavar="N", help="requests a minute")
        make.add_argument("--at-once", type=int, metavar="N", help="requests at once")
        make.add_argument("--days", type=int, metavar="N", help="works for so many days")
        off = actions.add_parser("off", help="let nobody in with it any more")
        off.add_argument("id", type=int, metavar="ID")

    def run(self, **options: Any) -> int:
        if options["action"] == "make":
            self._make(options)
        elif options["action"] == "off":
            keys.turn_off(options["id"], actor())
            self.say("The key is off.")
        else:
            self._list(options["json"])
        return 0

    def _make(self, options: dict[str, Any]) -> None:
        days = options["days"]
        new = NewKey(
            name=options["name"],
            hosts=tuple(options["host"]),
            profiles=tuple(options["profile"]),
            manage=options["manage"],
            requests_a_minute=options["a_minute"],
            at_once=options["at_once"],
            expires_at=None if days is None else system.now() + timedelta(days=days),
        )
        _, token = keys.make_key(new, actor())
        self.say(token)
        self.stderr.write("Keep it: it is shown this once.")

    def _list(self, as_json: bool) -> None:
        rows = queries.all_keys()
        if as_json:
            self.say_json([asdict(row) for row in rows])
        elif not rows:
            self.say("There is no key yet. Make one: keys make NAME")
        else:
            self.say_table(HEAD, [_row(row) for row in rows])


def _row(row: queries.KeyFacts) -> tuple[str, ...]:
    state = "works" if row.works_at(system.now()) else "off" if row.off_at else "expired"
    used = f"{row.last_used_at:%Y-%m-%d %H:%M}" if row.last_used_at else "never"
    hosts, profiles = ", ".join(row.hosts) or "all", ", ".join(row.profiles) or "any"
    manage = "yes" if row.manage else ""
    return (str(row.id), row.name, f"{row.prefix}…", state, hosts, profiles, manage, used)
