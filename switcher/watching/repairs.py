"""Repairs drift by an ordinary switch to the active model, a limited number of times an hour.

Three kinds are only reported: *other-content*, because the name belongs to whoever pointed it
elsewhere; *foreign*, because the models belong to somebody else; *unreachable*, because the host
accepts no calls. A repair never loads other content: it reaches what was activated by its copy.
"""

from __future__ import annotations

import logging
from functools import partial

from switcher.domain.clock import Clock, system
from switcher.domain.drift import REPAIRED, Kind, OpenDrift
from switcher.domain.errors import SwitchRunning
from switcher.domain.model_copies import find_name
from switcher.queries.desired import Repairs, WatchedHost, repairs
from switcher.records import drifts
from switcher.records.drifts import WATCHER
from switcher.switching.service import MAX_REASON, SwitchRequest, request_switch
from switcher.watching.actions import Action
from switcher.watching.detector import DriftReport

log = logging.getLogger(__name__)

PAUSE_S = 1.0
FLAP_PAUSE_S = 15.0  # between two checks whether repairs may be tried again


def actions(report: DriftReport, clock: Clock = system) -> tuple[Action, ...]:
    """Return the repair that a report calls for, if any."""
    host, active = report.host, report.host.desired.active
    broken = tuple(d for d in report.open if d.kind in REPAIRED)
    if not host.repairs or not broken or active is None:
        return ()
    if not active.name.is_cloud and not find_name(
        active.digest, active.name, report.seen.installed
    ):
        return ()  # nothing reaches what was activated
    flaps = any(d.kind is Kind.FLAPPING for d in report.open)
    work = partial(repair, host, broken, flaps, clock)
    pause_s = FLAP_PAUSE_S if flaps else PAUSE_S
    return (Action(("repair", host.host_id), f"repair of {host.host}", pause_s, work),)


def repair(
    host: WatchedHost, broken: tuple[OpenDrift, ...], flaps: bool, clock: Clock = system
) -> None:
    """Request the switch, or report that repairs do not help."""
    tried = repairs(host.host_id, clock.now())
    if tried is None or not tried.allowed or tried.active_since != host.active_since:
        return  # the next reading decides afresh
    if tried.count >= host.repairs_an_hour:
        _report_flapping(host, broken, tried, clock)
        return
    if flaps:
        drifts.end_flapping(host.host_id, "Repairs may be tried again.", clock)
    request = SwitchRequest(
        model="" if tried.profile else tried.model,
        profile=tried.profile,
        host=tried.host,
        reason=f"Repair: {' '.join(d.text for d in broken)}"[:MAX_REASON],
        keep_alive=tried.keep_alive,
        num_ctx=tried.num_ctx,
    )
    try:
        row, _ = request_switch(request, WATCHER, clock=clock)
    except SwitchRunning:
        return  # lost race: somebody requested a switch of their own
    drifts.link_repair([d.id for d in broken], row.pk)
    log.info("switch %s repairs %s: %s", row.pk, host.host, broken[0].text)


def _report_flapping(
    host: WatchedHost, broken: tuple[OpenDrift, ...], tried: Repairs, clock: Clock
) -> None:
    times = "once" if tried.count == 1 else f"{tried.count} times"
    since = f" since {tried.first_at:%H:%M:%S}" if tried.first_at else ""
    text = (
        f"{host.host} keeps drifting: it was repaired {times}{since}, and drifted again: "
        f"{broken[0].text} Repairs are paused until an hour has passed or somebody switches."
    )
    evidence = {
        "repairs": list(tried.outcomes),
        "repairs_an_hour": host.repairs_an_hour,
        "drifts": [{"kind": d.kind.value, "model": d.model, "text": d.text} for d in broken],
    }
    if drifts.record_flapping(host.host_id, text, evidence, clock):
        log.warning("%s", text)
