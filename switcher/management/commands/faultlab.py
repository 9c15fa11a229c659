"""`faultlab`: run schedules of faults against whole switches in simulated time."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from switcher.faultlab import campaign


class Command(BaseCommand):
    help = (
        "Run switches in simulated time with crashes, pauses, lost answers and strangers on the "
        "host, and check that what is recorded is what the host holds. Uses a database in memory; "
        "the real one is not opened. The last line is one JSON object."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument("--schedules", type=int, default=1000, help="how many to run")
        parser.add_argument("--first", type=int, default=0, help="the number to begin with")
        parser.add_argument("--jobs", type=int, default=0, help="processes; 0: one for each core")
        parser.add_argument("--replay", type=int, metavar="NUMBER", help="show one of them in full")
        parser.add_argument("--json", action="store_true", help="no table, only the last line")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["schedules"] < 1 or options["jobs"] < 0:
            raise CommandError("--schedules is at least 1, --jobs at least 0.")
        if options["replay"] is not None:
            bad = campaign.replay(options["seed"], options["replay"], self.stdout.write)
        else:
            say = (lambda _: None) if options["json"] else self.stdout.write
            wanted = range(options["first"], options["first"] + options["schedules"])
            report = campaign.run(options["seed"], wanted, options["jobs"], say)
            self.stdout.write(report.to_json())
            bad = report.violations
        if bad:
            raise SystemExit(1)
