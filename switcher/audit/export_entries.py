"""Exports of the trail: an entry when one begins, and one when it ends, however it ends."""

from __future__ import annotations

from collections.abc import Mapping

from switcher.audit.ledger import Actor, append, writing
from switcher.domain.clock import Clock, system

BEGAN, EXPORTED = "audit.export-began", "audit.exported"


def began(actor: Actor, form: str, filters: Mapping[str, str], clock: Clock = system) -> int:
    """Write down that one begins, before anything leaves. Returns the number of the entry."""
    with writing():
        entry = append(BEGAN, actor, clock=clock, format=form, filter=dict(filters))
    return int(entry.seq)


def ended(
    actor: Actor,
    form: str,
    filters: Mapping[str, str],
    *,
    began_seq: int,
    entries: int,
    whole: bool,
    clock: Clock = system,
) -> None:
    """Write down how it ended. `entries` were read for it; `whole` is False where it was cut
    off: how much of it arrived is then not known."""
    with writing():
        append(
            EXPORTED,
            actor,
            clock=clock,
            format=form,
            filter=dict(filters),
            began=began_seq,
            entries=entries,
            whole=whole,
        )
