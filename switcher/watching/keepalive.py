"""Keeps what is wanted from running out: a load without a prompt restarts its clock (fact 13).

Only the clock is touched. A model that is not there, or is there with other options, would be
loaded by such a call: that is a repair's business.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from switcher.domain.clock import Clock, system
from switcher.domain.drift import Kind, Wanted
from switcher.domain.errors import Conflict
from switcher.domain.observed import Resident, find_digest, find_installed
from switcher.domain.specs import Spec, keep_alive_s
from switcher.ollama.calls import Call
from switcher.ollama.client import QUICK_TIMEOUT_S
from switcher.queries.desired import WatchedHost
from switcher.switching.host_lease import HostLease, lease_host
from switcher.watching.acts import Act
from switcher.watching.judge import Verdict

log = logging.getLogger(__name__)

PAUSE_S = 10.0
LEAST_LEFT_S = 30.0


def wanted(verdict: Verdict, clock: Clock = system) -> tuple[Act, ...]:
    """The models whose keep-alive is to be asserted again now."""
    case, seen = verdict.case, verdict.seen
    if not case.repairs:
        return ()
    shortened = {d.digest for d in verdict.open if d.kind is Kind.SHORTENED}
    server_time = seen.at + timedelta(seconds=seen.clock_ahead_s)
    acts = []
    for w in case.desired.wanted(seen.installed):
        here = find_digest(seen.resident, w.digest)
        if here is None or w.spec.keep_alive == "0" or not loaded_so(w, here):
            continue
        if w.digest in shortened or runs_out(w.spec, here, server_time):
            what = f"keep-alive of {w.name} on {case.host}"
            work = partial(assert_again, case, w, clock)
            acts.append(Act(("keep", case.host_id, w.digest), what, _pause_s(w.spec), work))
    return tuple(acts)


def loaded_so(w: Wanted, here: Resident) -> bool:
    """Whether a load with the profile's options finds it loaded with these already (fact 12).
    What it was verified with has to be known; older servers do not list the context."""
    return here.context_length in (0, w.context)


def runs_out(spec: Spec, here: Resident, server_time: datetime) -> bool:
    """Whether less than half of its keep-alive is left, or less than 30 s."""
    whole_s = keep_alive_s(spec.keep_alive)
    if here.stays or here.expires_at is None:
        return False
    if whole_s is None:
        return True  # for ever, and it is not
    left_s = (here.expires_at - server_time).total_seconds()
    # One that is shorter than that would be asserted with each reading.
    return left_s < min(max(LEAST_LEFT_S, whole_s / 2), whole_s * 0.9)


def _pause_s(spec: Spec) -> float:
    whole_s = keep_alive_s(spec.keep_alive)
    return PAUSE_S if whole_s is None else min(PAUSE_S, whole_s / 4)


def assert_again(case: WatchedHost, w: Wanted, clock: Clock = system) -> None:
    """Under the host's lease, after a fresh look. Raises Conflict where something else is at work
    there, OllamaError kinds."""
    with lease_host(case.host_id, case.base_url, clock) as lease:
        _assert(lease, w)
    log.info("keep-alive of %s on %s asserted", w.name, case.host)


def _assert(lease: HostLease, w: Wanted) -> None:
    client = lease.ollama
    here = find_digest(lease.call(client.resident), w.digest)
    row = find_installed(lease.call(client.installed), w.name)
    if here is None or not loaded_so(w, here) or row is None or row.digest != w.digest:
        raise Conflict(f"{w.name} is not loaded as it was; that is no matter of its keep-alive.")
    capabilities = row.capabilities or lease.call(client.capabilities, row.name.full)
    embeds = replace(row, capabilities=capabilities).embeds_only
    lease.call(client.load, w.spec, embeds, QUICK_TIMEOUT_S, Call())
