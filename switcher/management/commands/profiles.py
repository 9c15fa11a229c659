"""`profiles`: list, add and remove profiles."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from switcher.domain.errors import BadRequest
from switcher.domain.specs import check_keep_alive, check_name, check_options, check_tag
from switcher.management.terminal import ListCommand, actor
from switcher.queries.profiles import ProfileRow, profile, profile_list
from switcher.records import config

JSON = ("name", "tag", "keep_alive", "options", "active_on", "pinned_on")
HEAD = ("NAME", "MODEL", "KEEP-ALIVE", "OPTIONS", "IN USE ON")


class Command(ListCommand):
    help = "List profiles, add and remove them."

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        add = self.add_action("add", self._add, "add a profile", "name", "tag")
        add.add_argument("--keep-alive", default="30m", metavar="30m")
        text = "a runner option: while it applies, /v1/responses is refused"
        add.add_argument("--num-ctx", type=int, metavar="8192", help=text)
        add.add_argument("--min-gpu", type=int, metavar="PERCENT")
        self.add_action("remove", self._remove, "delete a profile that nothing uses", "name")

    def _add(self, options: dict[str, Any]) -> None:
        floor = options["min_gpu"]
        if floor is not None and not 1 <= floor <= 100:
            raise BadRequest("The GPU share is a number from 1 to 100.", "min_gpu_percent")
        runner = {} if options["num_ctx"] is None else {"num_ctx": options["num_ctx"]}
        values = {
            "name": check_name(options["name"]),
            "tag": check_tag(options["tag"]),
            "keep_alive": check_keep_alive(options["keep_alive"]),
            "options": check_options(runner),
            "min_gpu_percent": floor,
        }
        config.put_profile(values, actor())
        self.say(f"Added {values['name']} for {values['tag']}.")

    def _remove(self, options: dict[str, Any]) -> None:
        config.delete_profile(profile(options["name"]).id, actor())
        self.say(f"Deleted {options['name']}.")

    def print_list(self, options: dict[str, Any]) -> None:
        rows = profile_list()
        if options["json"]:
            self.say_json([{name: getattr(row, name) for name in JSON} for row in rows])
        elif not rows:
            self.say("There is no profile yet. Add one: profiles add NAME TAG")
        else:
            self.say_table(HEAD, [_row(row) for row in rows])


def _row(row: ProfileRow) -> tuple[str, ...]:
    options = " ".join(f"{name}={value}" for name, value in row.options.items())
    used_on = ", ".join(sorted({*row.active_on, *row.pinned_on}))
    return row.name, row.tag, row.keep_alive, options, used_on
