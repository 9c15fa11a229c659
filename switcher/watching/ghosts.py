"""Looks after the copies that are held of loaded models, frees ghosts through them, and keeps the
published name.

Copies are Switchboard's own: they are made and removed whatever the policy, which touches nothing
that the host serves. To free a ghost is a repair.
"""

from __future__ import annotations

from functools import partial

from switcher.domain.clock import Clock, system
from switcher.domain.drift import Kind
from switcher.records.drifts import WATCHER
from switcher.switching.copy_cleanup import clean_up_copies
from switcher.switching.published_name import apply_published_name
from switcher.switching.service import free_ghost
from switcher.watching.acts import Act
from switcher.watching.judge import Verdict

FREE_PAUSE_S = 60.0
TIDY_PAUSE_S = 15.0
NAME_PAUSE_S = 5.0


def wanted(verdict: Verdict, clock: Clock = system) -> tuple[Act, ...]:
    """What is to be freed, and whether copies are to be tidied up."""
    return (*_freed(verdict, clock), *_tidied(verdict, clock), *_named(verdict, clock))


def _freed(verdict: Verdict, clock: Clock) -> tuple[Act, ...]:
    """Only what a copy of ours reaches was loaded by a switch; other ghosts are somebody else's."""
    case = verdict.case
    if not case.repairs:
        return ()
    ghosts = [d for d in verdict.open if d.kind is Kind.GHOST and d.digest in case.copied]
    return tuple(
        Act(
            ("ghost", case.host_id, d.digest),
            f"ghost {d.model} on {case.host}",
            FREE_PAUSE_S,
            partial(free_ghost, case.host, d.digest, WATCHER, clock),
        )
        for d in ghosts
    )


def _named(verdict: Verdict, clock: Clock) -> tuple[Act, ...]:
    """The published name: what is set is carried out whatever the policy; what somebody else did
    to it is mended where drift is repaired."""
    case = verdict.case
    mend = case.repairs and any(d.kind is Kind.PUBLISHED for d in verdict.open)
    if not case.name_is_due and not mend:
        return ()
    work = partial(apply_published_name, case.host_id, WATCHER, clock, mend=mend)
    return (Act(("name", case.host_id), f"published name on {case.host}", NAME_PAUSE_S, work),)


def _tidied(verdict: Verdict, clock: Clock) -> tuple[Act, ...]:
    """Where a copy is left of what is gone, or none is held of what is wanted and there."""
    case, seen = verdict.case, verdict.seen
    here = {r.digest for r in seen.resident}
    asked = {w.digest for w in case.desired.wanted(seen.installed)}
    if not case.copied - here and not (asked & here) - case.copied:
        return ()
    work = partial(clean_up_copies, case.host_id, clock)
    return (Act(("tidy", case.host_id), f"copies on {case.host}", TIDY_PAUSE_S, work),)
