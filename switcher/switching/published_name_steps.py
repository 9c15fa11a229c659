"""The published name on the server: pointed at a model when it becomes active, and back at the old
one if the switch is undone (facts 21, 22).

Unlike model copies this is part of the switch. If the name cannot be moved, the clients that use it
would load the old model again, so the switch fails.
"""

from __future__ import annotations

import logging
from typing import Any

from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed
from switcher.domain.published_name import PublishedName, plan_published_name, unreached_text
from switcher.ollama.errors import ModelMissing, OllamaError
from switcher.queries.hosts import published_name as published
from switcher.records import published_name
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.records.leases import LeaseHolder
from switcher.switching.effects import Copy, Delete, Effect, ListInstalled, Steps
from switcher.switching.errors import NotPublished
from switcher.switching.host_lease import HostLease

log = logging.getLogger(__name__)

MAX_COPIES = 2


def point_published_name(switch: ClaimedSwitch) -> Steps[None]:
    """Point the published name at the new model, which is about to become active. Raises
    NotPublished and OllamaError kinds.

    If the model is active already, nothing changes for the clients that use the name: a failure is
    then only a warning.
    """
    if not published(switch.host_id).wanted:
        return
    try:
        yield from _arrange(switch.holder, (switch.spec.name, switch.plan.digest))
    except (OllamaError, NotPublished) as exc:
        if switch.plan.digest != switch.old_digest:
            raise
        switch.warn(f"The published name was not pointed: {exc.text}")


def restore_published_name(switch: ClaimedSwitch) -> Steps[None]:
    """Point the name back at the old active model, or remove it if it did not exist before. What
    cannot be done now is done later, and is drift until then."""
    now = published(switch.host_id)
    if not now.name or (now.digest and now.digest == now.active_digest):
        return
    try:
        yield from _arrange(switch.holder)
    except (OllamaError, NotPublished) as exc:
        switch.warn(f"{now.name.full} does not mean the old model again: {exc.text}")


def arrange_published_name(lease: HostLease, holder: LeaseHolder, mend: bool) -> None:
    """Apply the setting between switches: create the name, move it, or remove it. With `mend`, do
    so also if somebody else moved or removed it. Raises what `HostLease.call` raises, and
    NotPublished."""
    if not published(lease.host_id).due and not mend:
        return
    steps, result = _arrange(holder), None
    while True:
        try:
            effect = steps.send(result)
        except StopIteration:
            return
        result = _perform(effect, lease)


def _perform(effect: Effect, lease: HostLease) -> Any:
    match effect:
        case ListInstalled():
            return lease.call(lease.ollama.installed)
        case Copy(source, destination):
            return lease.call(lease.ollama.copy, source.full, destination.full)
        case Delete(name):
            try:
                return lease.call(lease.ollama.delete, name.full)
            except ModelMissing:
                return None  # somebody else deleted it
    raise AssertionError(f"a published name needs no {effect}")


def _arrange(holder: LeaseHolder, becoming: tuple[ModelName, str] | None = None) -> Steps[None]:
    """Read, decide and act until the name points where it should: to the active model, or to the
    name and digest in `becoming`.

    It reads again after each copy, because somebody may change names in between: a source that is
    pulled again would give the name other content. This also finds what a dead process left behind.
    """
    for copied in range(MAX_COPIES + 1):
        installed: tuple[Installed, ...] = yield ListInstalled()
        now = published(holder.host_id)
        now = now.with_active(*becoming) if becoming else now
        plan = plan_published_name(now, installed)
        if plan.delete:
            yield Delete(plan.withdraw)
        if plan.withdraw:
            published_name.release(holder)
        if plan.barred or (plan.source and copied == MAX_COPIES):
            raise NotPublished(plan.barred or unreached_text(now))
        if not plan.source:
            _confirm(holder, now)
            return
        published_name.claim(holder, now.wanted, now.active_tag, now.active_digest)
        yield Copy(plan.source, now.wanted)


def _confirm(holder: LeaseHolder, now: PublishedName) -> None:
    if now.due and now.wanted and now.active_digest:
        published_name.confirm(holder, now.wanted, now.active_tag, now.active_digest)
        log.info("%s means %s now", now.wanted.full, now.active_tag)
