"""Run schedules of faults against whole switches in simulated time (`script/faultlab`)."""

from __future__ import annotations

import argparse
import sys

import django


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/faultlab",
        description=(
            "Run switches in simulated time with crashes, pauses, lost answers and strangers on "
            "the host, and check that what is recorded is what the host holds. Uses a database in "
            "memory; the real one is not opened. The last line is one JSON object."
        ),
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--schedules", type=int, default=1000, help="how many to run")
    parser.add_argument("--first", type=int, default=0, help="the number to begin with")
    parser.add_argument("--jobs", type=int, default=0, help="processes; 0: one for each core")
    parser.add_argument("--replay", type=int, metavar="NUMBER", help="show one of them in full")
    parser.add_argument("--json", action="store_true", help="no table, only the last line")
    options = parser.parse_args(words)
    if options.schedules < 1 or options.jobs < 0:
        parser.error("--schedules is at least 1, --jobs at least 0.")
    return options


def main(words: list[str]) -> int:
    """Run the schedules; return 1 if any of them broke an invariant."""
    options = parse(words)
    django.setup()
    from tests.faultlab import campaign  # needs the apps

    if options.replay is not None:
        return int(bool(campaign.replay(options.seed, options.replay, print)))
    say = (lambda _: None) if options.json else print
    wanted = range(options.first, options.first + options.schedules)
    report = campaign.run(options.seed, wanted, options.jobs, say)
    print(report.to_json())
    return int(bool(report.violations))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
