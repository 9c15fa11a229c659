"""`switch`: switch the active model of a host."""

from __future__ import annotations

import logging
import sys
from typing import Any

from django.core.management.base import CommandParser, OutputWrapper

from switcher.domain.plans import Plan
from switcher.domain.states import ENDED, Strategy
from switcher.domain.wording import gb
from switcher.management.following import (
    OwnWorker,
    Screen,
    exit_code,
    follow,
    switch_json,
)
from switcher.management.terminal import ACTIVE, REFUSED, TerminalCommand, actor
from switcher.queries.switches import SwitchDetail, switch_detail
from switcher.switching import service
from switcher.switching.service import SwitchRequest

INTERRUPTED = 130  # what shells report after Ctrl-C


class Command(TerminalCommand):
    help = (
        "Switch the active model of a host. Exit codes: 0 active, 1 wrong usage, "
        "3 rolled back, 4 failed, 5 refused."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", nargs="?", default="", metavar="MODEL")
        parser.add_argument("--host", default="", help="name of a host; else the default host")
        parser.add_argument("--profile", default="", help="name of a profile")
        parser.add_argument("--reason", default="", help="kept in the record")
        parser.add_argument("--strategy", default="", choices=[s.value for s in Strategy])
        parser.add_argument("--keep-alive", default="", metavar="30m")
        help_text = "context length in tokens, instead of the profile's"
        parser.add_argument("--num-ctx", default="", metavar="8192", help=help_text)
        parser.add_argument("--dry-run", action="store_true", help="only show the plan")
        parser.add_argument("--json", action="store_true", help="print one JSON object at the end")

    def run(self, **options: Any) -> int:
        names = ("model", "profile", "host", "reason", "strategy", "keep_alive", "num_ctx")
        wanted = SwitchRequest(**{name: options[name] for name in names})
        if options["dry_run"]:
            return self._show_plan(service.plan(wanted), options["json"])
        row, _ = service.request_switch(wanted, actor())
        return self._follow(row.pk, options["json"])

    def _show_plan(self, plan: Plan, as_json: bool) -> int:
        if as_json:
            self.say_json(plan.to_json())
        else:
            for line in plan_lines(plan):
                self.say(line)
        return REFUSED if plan.blocked else ACTIVE

    def _follow(self, switch_id: int, as_json: bool) -> int:
        # With --json, standard output holds only the object.
        out = self.stderr if as_json else self.stdout
        if as_json:
            out.style_func = None
        # The screen shows the phases; log lines would garble it.
        logger = logging.getLogger("switcher")
        level = logger.level
        logger.setLevel(logging.WARNING)
        own = OwnWorker(switch_id)
        try:
            screen = Screen(out, live=bool(out.isatty()))
            screen.begin(switch_detail(switch_id))
            row = follow(switch_id, screen, own, _Interrupted(own, out))
        finally:
            logger.setLevel(level)
        if row is None:
            own.hand_over()
            return INTERRUPTED
        if as_json:
            self.say_json(switch_json(row))
        return exit_code(row)


class _Interrupted:
    """Handles Ctrl-C: the first time it asks what to do, the second time it stops following."""

    def __init__(self, own: OwnWorker, out: OutputWrapper) -> None:
        self._own = own
        self._out = out
        self._asked = False

    def __call__(self, row: SwitchDetail) -> bool:
        """Handle Ctrl-C. Return whether to continue following the switch."""
        if self._asked or row.state in ENDED:
            return False
        self._asked = True
        if self._answer() == "c":
            service.cancel(row.id, actor())
            self._out.write("Cancelling: the old model is being restored.")
            return True
        # If the worker is in this process, leaving would interrupt the switch.
        return self._own.running

    def _answer(self) -> str:
        """Ask, and return `c` or something else. Without a terminal, cancel."""
        other = "go on (g)" if self._own.running else "leave it running (l)"
        if not sys.stdin.isatty():
            return "c"
        try:
            return input(f"\nCancel (c) or {other}? ").strip().lower()[:1]
        except (EOFError, KeyboardInterrupt):
            return "c"


def plan_lines(plan: Plan) -> list[str]:
    """Return a plan in words and numbers."""
    if plan.already_active:
        return [f"{plan.load.short} is active on {plan.host} already. It would be verified."]
    lines = [f"Plan for {plan.host}: {plan.strategy.value}, because {plan.strategy_reason}."]
    lines += [f"  unload {i.short} ({_gb(i.bytes)}, {i.role})" for i in plan.unload]
    size = plan.load.why if plan.cloud else f"{_gb(plan.load.bytes)} {plan.load.why}".rstrip()
    lines.append(f"  load   {plan.load.short} ({size})")
    lines += [f"  load   {i.short} ({_gb(i.bytes)}, {i.role})" for i in plan.reload]
    lines += [f"  keep   {i.short} ({_gb(i.bytes)}, {i.role})" for i in plan.keep]
    vram = f" of {_gb(plan.vram_bytes)}" if plan.vram_bytes else ""
    before, after, peak = (gb(n) for n in (plan.bytes_before, plan.bytes_after, plan.bytes_peak))
    lines.append(f"  memory {before} GB now, {peak} GB at most, {after} GB after{vram}")
    if plan.expected_s is not None:
        lines.append(f"  usually {plan.expected_s:.1f} s")
    if plan.strategy is Strategy.SWAP:
        lines.append("  requests wait meanwhile")
    if plan.context_advice:
        lines.append(f"  {plan.context_advice}")
    if plan.fits_context:
        lines.append(f"  to make it fit: --num-ctx {plan.fits_context}")
    lines += [f"  note: {warning}" for warning in plan.warnings]
    if plan.blocked:
        lines.append(f"This cannot work: {plan.blocked}")
    elif plan.cannot_publish:
        lines.append(f"  the published name stays as it is: {plan.cannot_publish}")
    return lines


def _gb(count: int) -> str:
    return f"{gb(count)} GB" if count else "size not known"
