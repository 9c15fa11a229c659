"""Renews the keep-alive of desired models: a load without a prompt restarts the timer (fact 13).

It must change nothing else. If the model is not loaded, or is loaded with other options, this call
would load it; that is left to a repair.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from switcher.domain.clock import Clock, system
from switcher.domain.drift import DesiredModel, Kind
from switcher.domain.errors import Conflict
from switcher.domain.model_copies import find_content
from switcher.domain.observed import Resident, find_digest
from switcher.domain.specs import Spec, keep_alive_s
from switcher.ollama.calls import Call
from switcher.ollama.client import QUICK_TIMEOUT_S
from switcher.queries.desired import WatchedHost
from switcher.switching.host_lease import HostLease, lease_host
from switcher.watching.actions import Action
from switcher.watching.detector import DriftReport

log = logging.getLogger(__name__)

PAUSE_S = 10.0
MIN_LEFT_S = 30.0


def actions(report: DriftReport, clock: Clock = system) -> tuple[Action, ...]:
    """Return an action for each model whose keep-alive should be renewed now."""
    host, seen = report.host, report.seen
    if not host.repairs:
        return ()
    replaced = {d.digest for d in report.open if d.kind in (Kind.SHORTENED, Kind.LENGTHENED)}
    server_time = seen.at + timedelta(seconds=seen.clock_ahead_s)
    found = []
    for model in host.desired.models(seen.installed):
        resident = find_digest(seen.resident, model.digest)
        if resident is None or model.spec.keep_alive == "0" or not is_same_load(model, resident):
            continue
        if model.digest in replaced or expires_soon(model.spec, resident, server_time):
            what = f"keep-alive of {model.name} on {host.host}"
            work = partial(renew_keep_alive, host, model, clock)
            key = ("keep", host.host_id, model.digest)
            found.append(Action(key, what, _pause_s(model.spec), work))
    return tuple(found)


def is_same_load(model: DesiredModel, resident: Resident) -> bool:
    """Return whether the model is loaded with the desired options, so that a load changes nothing
    (fact 12). Older servers do not report the context length."""
    return resident.context_length in (0, model.context)


def expires_soon(spec: Spec, resident: Resident, server_time: datetime) -> bool:
    """Return whether less than half of its keep-alive is left, or less than MIN_LEFT_S."""
    keep_s = keep_alive_s(spec.keep_alive)
    if resident.stays or resident.expires_at is None:
        return False
    if keep_s is None:
        return True  # it should stay forever
    left_s = (resident.expires_at - server_time).total_seconds()
    # Otherwise a keep-alive below MIN_LEFT_S would be renewed at every reading.
    return left_s < min(max(MIN_LEFT_S, keep_s / 2), keep_s * 0.9)


def _pause_s(spec: Spec) -> float:
    keep_s = keep_alive_s(spec.keep_alive)
    return PAUSE_S if keep_s is None else min(PAUSE_S, keep_s / 4)


def renew_keep_alive(host: WatchedHost, model: DesiredModel, clock: Clock = system) -> None:
    """Renew the keep-alive under the host's lease, after a fresh reading. Raises Conflict if
    something else is working on the host, and OllamaError."""
    with lease_host(host.host_id, host.server, clock) as lease:
        _renew_keep_alive(lease, model)
    log.info("keep-alive of %s on %s renewed", model.name, host.host)


def _renew_keep_alive(lease: HostLease, model: DesiredModel) -> None:
    ollama = lease.ollama
    resident = find_digest(lease.call(ollama.resident), model.digest)
    row = find_content(model.digest, model.name, lease.call(ollama.installed))
    if resident is None or not is_same_load(model, resident) or row is None:
        raise Conflict(
            f"{model.name} is no longer loaded as desired, so its keep-alive was not renewed."
        )
    capabilities = row.capabilities or lease.call(ollama.capabilities, row.name.full)
    embeds = replace(row, capabilities=capabilities).embeds_only
    spec = model.spec.under(row.name)  # its own name may point to other content (fact 23)
    lease.call(ollama.load, spec, embeds, QUICK_TIMEOUT_S, Call())
