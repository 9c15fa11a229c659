"""`keys`: list API keys with their usage, make keys, turn them off."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser

from switcher.domain.clock import system
from switcher.domain.errors import BadRequest
from switcher.management.terminal import ListCommand, actor
from switcher.presentation.clients import LIMIT_WORDS
from switcher.queries import keys as queries
from switcher.queries.keys import KeyFacts, UsageRow
from switcher.records import keys
from switcher.records.keys import NewKey

DAYS, MAX_DAYS = 7, 3660
HEAD = (
    *("ID", "NAME", "KEY", "STATE", "HOSTS", "PROFILES", "MAY", "LAST USED"),
    *("REQUESTS", "ERRORS", "WAITED", "TOKENS"),
)
USAGE_HEAD = ("KEY", "HOST", "MODEL", "REQUESTS", "ERRORS", "WAITED", "TOKENS IN", "TOKENS OUT")


class Command(ListCommand):
    help = f"List API keys with their usage of the last {DAYS} days, make keys, turn them off."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        make = self.add_action("make", self._make, "make a key; it is printed once", "name")
        make.epilog = f"Limits: {LIMIT_WORDS}"
        make.add_argument("--host", action="append", default=[], help="only this host; repeatable")
        make.add_argument("--profile", action="append", default=[], help="only this profile")
        make.add_argument("--manage", action="store_true", help="may pull and delete models")
        make.add_argument("--switch", action="store_true", help="may switch the active model")
        text = "profile that comes next if the key's model is not loaded; repeatable"
        make.add_argument("--fallback", action="append", default=[], metavar="PROFILE", help=text)
        make.add_argument("--a-minute", type=int, metavar="N", help="requests per minute")
        make.add_argument("--at-once", type=int, metavar="N", help="requests at once")
        make.add_argument("--days", type=int, metavar="N", help="days until it expires")
        off = self.add_action("off", self._turn_off, "turn a key off")
        off.add_argument("id", type=int, metavar="ID")
        text = "requests and tokens by key, host and model"
        usage = self.add_action("usage", self._usage, text)
        self.add_json(usage)
        usage.add_argument("--days", type=int, default=DAYS, metavar="N")
        usage.add_argument("--host", default="", help="only this host")

    def _make(self, options: dict[str, Any]) -> None:
        days = options["days"]
        new = NewKey(
            name=options["name"],
            hosts=tuple(options["host"]),
            profiles=tuple(options["profile"]),
            manage=options["manage"],
            may_switch=options["switch"],
            fallback=tuple(options["fallback"]),
            requests_a_minute=options["a_minute"],
            at_once=options["at_once"],
            expires_at=None if days is None else system.now() + timedelta(days=days),
        )
        _, token = keys.make_key(new, actor())
        self.say(token)
        self.stderr.write("Keep it: it is not shown again.")

    def _turn_off(self, options: dict[str, Any]) -> None:
        keys.turn_off(options["id"], actor())
        self.say("The key is off.")

    def print_list(self, options: dict[str, Any]) -> None:
        rows, used = queries.all_keys(), queries.totals(queries.usage(DAYS))
        if options["json"]:
            self.say_json([asdict(row) | {"usage": _counts(used.get(row.id))} for row in rows])
        elif not rows:
            self.say("There is no key yet. Make one: keys make NAME")
        else:
            self.say_table(HEAD, [_row(row) + _totals(used.get(row.id)) for row in rows])

    def _usage(self, options: dict[str, Any]) -> None:
        if not 1 <= options["days"] <= MAX_DAYS:
            raise BadRequest(f"The days are a number from 1 to {MAX_DAYS}.", "days")
        rows = queries.usage(options["days"], host=options["host"])
        if options["json"]:
            self.say_json([asdict(row) for row in rows])
        elif not rows:
            self.say("The gateway was not used.")
        else:
            self.say_table(USAGE_HEAD, [_usage_row(row) for row in rows])


def _counts(row: UsageRow | None) -> dict[str, int]:
    return {name: getattr(row, name) if row else 0 for name in queries.COUNTS}


def _totals(row: UsageRow | None) -> tuple[str, ...]:
    n = _counts(row)
    tokens = n["tokens_in"] + n["tokens_out"]
    return str(n["requests"]), str(n["errors"]), str(n["waits"]), str(tokens)


def _usage_row(row: UsageRow) -> tuple[str, ...]:
    counts = (row.requests, row.errors, row.waits, row.tokens_in, row.tokens_out)
    return (row.key_name or "no key", row.host, row.model, *map(str, counts))


def _row(row: KeyFacts) -> tuple[str, ...]:
    state = "works" if row.is_valid_at(system.now()) else "off" if row.off_at else "expired"
    used = f"{row.last_used_at:%Y-%m-%d %H:%M}" if row.last_used_at else "never"
    hosts = "all" if row.all_hosts else ", ".join(row.hosts) or "none left"
    profiles = "any" if row.all_profiles else ", ".join(row.profiles) or "none left"
    scopes = {"manage": row.manage, "switch": row.may_switch}
    may = ", ".join(scope for scope, is_given in scopes.items() if is_given)
    return (str(row.id), row.name, f"{row.prefix}…", state, hosts, profiles, may, used)
