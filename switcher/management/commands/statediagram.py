"""`statediagram`: print docs/states.md, made from the transition table."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from switcher.domain.states import ENDED, OPEN, PHASES, TRANSITIONS, WORDS, State

MEANING = {
    State.QUEUED: "requested and recorded; no worker has claimed it yet",
    State.CHECKING: "the host is read and the plan is made; nothing is touched",
    State.DRAINING: "swap: new requests wait, running ones end (30 s at most)",
    State.LOADING: "the new model is being loaded",
    State.WARMING: "the warm-up prompts are being answered",
    State.VERIFYING: "a fresh reading: right digest, enough on the GPU, the old model gone",
    State.ACTIVATING: "the configuration changes, in one transaction",
    State.UNLOADING: "the old model is unloaded: before the load in a swap, else after activation",
    State.RESTORING: "something failed or was cancelled: the old models are brought back",
    State.ACTIVE: "the new model is what everyone gets",
    State.ROLLED_BACK: "the old models are back, and that was verified",
    State.FAILED: "nothing was touched; or restoring failed too, and the host is degraded",
    State.CANCELLED: "cancelled by a person; the old models are back, verified",
}


def document() -> str:
    """Return the whole page."""
    lines = [
        "# The states of a switch",
        "",
        "Made by `manage.py statediagram` from `switcher/domain/states.py`; a test compares them.",
        "",
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> queued",
    ]
    for left in State:
        lines += [f"    {left} --> {right}" for right in State if right in TRANSITIONS[left]]
    lines += [f"    {state} --> [*]" for state in State if state in ENDED]
    lines += ["```", "", "| state | | meaning |", "|---|---|---|"]
    for state in State:
        kind = "open" if state in OPEN else "ended"
        lines.append(f"| {WORDS[state]} (`{state}`) | {kind} | {MEANING[state]} |")
    lines += ["", "## The phases of a switch that succeeds", ""]
    lines += [f"- `{s}`: {' → '.join(p.value for p in phases)}" for s, phases in PHASES.items()]
    return "\n".join(lines) + "\n"


class Command(BaseCommand):
    help = "Print docs/states.md, made from the transition table."

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(document(), ending="")
