"""Keep a copy of each model that a switch loads, for as long as the model is resident or active:
whatever happens to the model's own name, the copy's name still reaches it (facts 21, 23, 24).

The gateway sends requests by this name, and a copy helps to unload the model later. But no switch
depends on it. If it cannot be made, the switch continues without it.
"""

from __future__ import annotations

import logging

from switcher.domain.model_copies import copy_name, find_copy, find_name
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident, find_digest, find_installed
from switcher.domain.states import State
from switcher.ollama.errors import OllamaError
from switcher.queries.model_copies import ModelCopyRow, model_copies_of
from switcher.records import model_copies
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.switching.effects import Copy, Delete, ListInstalled, ListResident, Steps

log = logging.getLogger(__name__)


def make_copy(
    switch: ClaimedSwitch, model: ModelName, digest: str, installed: tuple[Installed, ...]
) -> Steps[None]:
    """Make a copy of the model with this digest before the model is loaded, or adopt one that
    somebody else has left. `installed` is a fresh reading. A failure is only a warning. A cloud
    model is never loaded, so it needs none."""
    if switch.plan.cloud and digest == switch.plan.digest:
        return
    recorded = next((c for c in model_copies_of(switch.host_id) if c.digest == digest), None)
    if recorded is None and (left := find_copy(installed, digest)) is not None:
        model_copies.claim(switch.holder, digest, model, left.name)
        return
    name = recorded.name if recorded else copy_name(model, digest)
    existing = find_installed(installed, name)
    if recorded and existing and existing.digest == digest:
        return
    if not recorded and existing:
        _warn(switch, model, f"{name.full} is not Switchboard's.")
        return
    if not model_copies.claim(switch.holder, digest, model, name):
        return
    try:
        yield Copy(find_name(digest, model, installed) or model, name)
        now: tuple[Installed, ...] = yield ListInstalled()
        made = find_installed(now, name)
        if made is None or made.digest != digest:
            # The model was pulled again in between: a copy of other content is of no use.
            yield Delete(name)
            model_copies.release(switch.holder, digest)
            _warn(switch, model, "it means other content now.")
    except OllamaError as exc:
        # The name stays claimed, since it may have been made.
        _warn(switch, model, exc.text)


def _warn(switch: ClaimedSwitch, model: ModelName, why: str) -> None:
    switch.warn(f"No copy of {model} is kept: {why}")


def remove_unused_copies(switch: ClaimedSwitch) -> Steps[None]:
    """Remove the copies of models that are neither resident nor active, after the end of a switch
    but still under its lease. What cannot be removed now is left to the cleanup."""
    rows = model_copies_of(switch.host_id)
    if not rows or switch.recorded_plan is None:
        return
    active = switch.plan.digest if switch.state is State.ACTIVE else switch.old_digest
    try:
        now: tuple[Resident, ...] = yield ListResident()
        for row in rows:
            if row.digest == active:
                continue  # the gateway asks for it by this name
            if find_digest(now, row.digest) is None or _is_not_ours(switch, row):
                yield Delete(row.name)
                model_copies.release(switch.holder, row.digest)
    except OllamaError as exc:
        log.info("Unused copies on %s are removed later: %s", switch.host, exc.text)


def _is_not_ours(switch: ClaimedSwitch, row: ModelCopyRow) -> bool:
    """Return whether the copied model was loaded by somebody else before the switch, and did not
    become active by it."""
    was_loaded = find_digest(switch.plan.before, row.digest) is not None
    failed = row.digest == switch.plan.digest and switch.state is not State.ACTIVE
    return failed and was_loaded and row.made_at >= switch.row.created_at
