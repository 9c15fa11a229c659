"""Repair: an ordinary switch to what is active, at most so many an hour.

What is reported only: other content, as its name would load what nobody chose; foreign models, as
they are somebody else's; an unreachable host, as it takes no call.
"""

from __future__ import annotations

import logging
from functools import partial

from switcher.domain.clock import Clock, system
from switcher.domain.drift import REPAIRED, Kind, Recorded
from switcher.domain.errors import SwitchRunning
from switcher.queries.desired import Repairs, WatchedHost, repairs
from switcher.records import drifts
from switcher.records.drifts import WATCHER
from switcher.switching.service import SwitchRequest, request_switch
from switcher.watching.acts import Act
from switcher.watching.judge import Verdict

log = logging.getLogger(__name__)

PAUSE_S = 1.0
FLAP_PAUSE_S = 15.0  # between two looks at whether repairs may be tried again


def wanted(verdict: Verdict, clock: Clock = system) -> tuple[Act, ...]:
    """The repair that a verdict asks for, if any."""
    case = verdict.case
    broken = tuple(d for d in verdict.open if d.kind in REPAIRED)
    active = case.desired.active
    if not case.repairs or not broken or active is None or _means_other(verdict, active.digest):
        return ()
    flaps = any(d.kind is Kind.FLAPPING for d in verdict.open)
    work = partial(repair, case, broken, flaps, clock)
    pause_s = FLAP_PAUSE_S if flaps else PAUSE_S
    return (Act(("repair", case.host_id), f"repair of {case.host}", pause_s, work),)


def _means_other(verdict: Verdict, digest: str) -> bool:
    return any(d.kind is Kind.OTHER_CONTENT and d.digest == digest for d in verdict.open)


def repair(
    case: WatchedHost, broken: tuple[Recorded, ...], flaps: bool, clock: Clock = system
) -> None:
    """Ask for the switch, or tell that it does not help."""
    tried = repairs(case.host_id, clock.now())
    if tried is None or not tried.allowed or tried.active_since != case.active_since:
        return  # decided anew by the next reading
    if tried.count >= case.repairs_an_hour:
        _tell_flap(case, broken, tried, clock)
        return
    if flaps:
        drifts.end_flap(case.host_id, "Repairs may be tried again.", clock)
    wish = SwitchRequest(
        model="" if tried.profile else tried.model,
        profile=tried.profile,
        host=tried.host,
        reason=f"Repair: {' '.join(d.text for d in broken)}"[:500],
        keep_alive=tried.keep_alive,
    )
    try:
        row, _ = request_switch(wish, WATCHER, clock=clock)
    except SwitchRunning:
        return  # lost race: what runs there is somebody's own wish
    drifts.link_repair([d.id for d in broken], row.pk)
    log.info("switch %s repairs %s: %s", row.pk, case.host, broken[0].text)


def _tell_flap(
    case: WatchedHost, broken: tuple[Recorded, ...], tried: Repairs, clock: Clock
) -> None:
    times = "once" if tried.count == 1 else f"{tried.count} times"
    since = f" since {tried.first_at:%H:%M:%S}" if tried.first_at else ""
    text = (
        f"{case.host} keeps drifting: repaired {times}{since}, and again: {broken[0].text} "
        "Nothing more is repaired until an hour has passed or somebody switches."
    )
    evidence = {
        "repairs": list(tried.outcomes),
        "repairs_an_hour": case.repairs_an_hour,
        "drifts": [{"kind": d.kind.value, "model": d.model, "text": d.text} for d in broken],
    }
    if drifts.flap(case.host_id, text, evidence, clock):
        log.warning("%s", text)
