"""`keys`: list with what was counted, make, turn off."""

from __future__ import annotations

from argparse import SUPPRESS
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser

from switcher.domain.clock import system
from switcher.domain.errors import BadRequest
from switcher.management.terminal import TerminalCommand, actor
from switcher.presentation.wording import LIMIT_WORDS
from switcher.queries import keys as queries
from switcher.records import keys
from switcher.records.keys import NewKey

DAYS = 7
HEAD = (
    *("ID", "NAME", "KEY", "STATE", "HOSTS", "PROFILES", "MANAGE", "LAST USED"),
    *("REQUESTS", "ERRORS", "WAITED", "TOKENS"),
)
USAGE_HEAD = ("KEY", "HOST", "MODEL", "REQUESTS", "ERRORS", "WAITED", "TOKENS IN", "TOKENS OUT")


class Command(TerminalCommand):
    help = (
        f"List keys to the gateway with their use in {DAYS} days; `keys make` and `keys off` "
        "change the list, `keys usage` tells it by host and model."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="the list as JSON")
        actions = parser.add_subparsers(dest="action", metavar="make | off | usage")
        make = actions.add_parser(
            "make", help="make a key; it is printed once", epilog=f"Limits: {LIMIT_WORDS}"
        )
        make.add_argument("name", metavar="NAME")
        make.add_argument("--host", action="append", default=[], help="only this host; repeat")
        make.add_argument("--profile", action="append", default=[], help="only this profile")
        make.add_argument("--manage", action="store_true", help="may change hosts")
        make.add_argument("--a-minute", type=int, metavar="N", help="requests a minute")
        make.add_argument("--at-once", type=int, metavar="N", help="requests at once")
        make.add_argument("--days", type=int, metavar="N", help="works for so many days")
        off = actions.add_parser("off", help="let nobody in with it any more")
        off.add_argument("id", type=int, metavar="ID")
        usage = actions.add_parser("usage", help="requests and tokens by key, host and model")
        # Its value must not undo a `--json` that stands before the word.
        usage.add_argument("--json", action="store_true", default=SUPPRESS, help="as JSON")
        usage.add_argument("--days", type=int, default=DAYS, metavar="N")
        usage.add_argument("--host", default="", help="of this host alone")

    def run(self, **options: Any) -> int:
        if options["action"] == "make":
            self._make(options)
        elif options["action"] == "off":
            keys.turn_off(options["id"], actor())
            self.say("The key is off.")
        elif options["action"] == "usage":
            self._usage(options)
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
        used = queries.totals(queries.usage(DAYS))
        if as_json:
            counts = {row.id: used.get(row.id) for row in rows}
            self.say_json([asdict(row) | {"usage": _counts(counts[row.id])} for row in rows])
        elif not rows:
            self.say("There is no key yet. Make one: keys make NAME")
        else:
            self.say_table(HEAD, [_row(row) + _use(used.get(row.id)) for row in rows])

    def _usage(self, options: dict[str, Any]) -> None:
        if not 1 <= options["days"] <= 3660:
            raise BadRequest("Count from 1 to 3660 days back.", "days")
        rows = queries.usage(options["days"], host=options["host"])
        if options["json"]:
            self.say_json([asdict(row) for row in rows])
        elif not rows:
            self.say("Nothing was asked of the gateway.")
        else:
            self.say_table(USAGE_HEAD, [_usage_row(row) for row in rows])


def _counts(row: queries.UsageRow | None) -> dict[str, int]:
    return {name: getattr(row, name) if row else 0 for name in queries.COUNTS}


def _use(row: queries.UsageRow | None) -> tuple[str, ...]:
    if row is None:
        return ("0", "0", "0", "0")
    counts = (row.requests, row.errors, row.waits, row.tokens_in + row.tokens_out)
    return tuple(map(str, counts))


def _usage_row(row: queries.UsageRow) -> tuple[str, ...]:
    counts = (row.requests, row.errors, row.waits, row.tokens_in, row.tokens_out)
    return (row.key_name or "no key", row.host, row.model, *map(str, counts))


def _row(row: queries.KeyFacts) -> tuple[str, ...]:
    state = "works" if row.is_valid_at(system.now()) else "off" if row.off_at else "expired"
    used = f"{row.last_used_at:%Y-%m-%d %H:%M}" if row.last_used_at else "never"
    hosts = "all" if row.all_hosts else ", ".join(row.hosts) or "none left"
    profiles = "any" if row.all_profiles else ", ".join(row.profiles) or "none left"
    manage = "yes" if row.manage else ""
    return (str(row.id), row.name, f"{row.prefix}…", state, hosts, profiles, manage, used)
