"""Decides when to clean up model copies, unload ghosts and apply the published name.

Model copies belong to Switchboard and do not affect what the host serves, so they are made and
removed under either drift policy. Unloading a ghost is a repair.
"""

from __future__ import annotations

from functools import partial

from switcher.domain.clock import Clock, system
from switcher.domain.drift import Kind
from switcher.records.drifts import WATCHER
from switcher.switching.copy_cleanup import clean_up_copies, plan_cleanup
from switcher.switching.published_name import apply_published_name
from switcher.switching.service import free_ghost
from switcher.watching.actions import Action
from switcher.watching.detector import DriftReport

GHOST_PAUSE_S = 60.0
COPIES_PAUSE_S = 15.0
NAME_PAUSE_S = 5.0


def actions(report: DriftReport, clock: Clock = system) -> tuple[Action, ...]:
    """Return the actions for ghosts, model copies and the published name."""
    return (*_ghosts(report, clock), *_copies(report, clock), *_published_name(report, clock))


def _ghosts(report: DriftReport, clock: Clock) -> tuple[Action, ...]:
    """Unload only ghosts that a model copy reaches: the others were loaded by somebody else."""
    host = report.host
    if not host.repairs:
        return ()
    ghosts = [d for d in report.open if d.kind is Kind.GHOST and d.digest in host.copied]
    return tuple(
        Action(
            ("ghost", host.host_id, d.digest),
            f"ghost {d.model} on {host.host}",
            GHOST_PAUSE_S,
            partial(free_ghost, host.host, d.digest, WATCHER, clock),
        )
        for d in ghosts
    )


def _copies(report: DriftReport, clock: Clock) -> tuple[Action, ...]:
    """Clean up if copies are left over, missing, or hold other content than recorded."""
    host, seen = report.host, report.seen
    if not plan_cleanup(host, seen.resident, seen.installed):
        return ()
    work = partial(clean_up_copies, host.host_id, clock)
    return (Action(("copies", host.host_id), f"copies on {host.host}", COPIES_PAUSE_S, work),)


def _published_name(report: DriftReport, clock: Clock) -> tuple[Action, ...]:
    """Apply the setting under either policy. What others did to the name is undone only under the
    policy *repair*."""
    host = report.host
    mend = host.repairs and any(d.kind is Kind.PUBLISHED for d in report.open)
    if not host.name_is_due and not mend:
        return ()
    work = partial(apply_published_name, host.host_id, WATCHER, clock, mend=mend)
    return (Action(("name", host.host_id), f"published name on {host.host}", NAME_PAUSE_S, work),)
