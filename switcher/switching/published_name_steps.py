"""One name on the server that means the active model: pointed at it when it becomes active, put
back where a switch is taken back (facts 21, 22).

Unlike the copies that hold models this is part of the switch: where it cannot be pointed, clients
that follow it would load the old model again, so the switch does not go through.
"""

from __future__ import annotations

import logging
from typing import Any

from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed
from switcher.domain.published_name import PublishedName, plan_published_name, unreached_text
from switcher.ollama.client import Ollama
from switcher.ollama.errors import ModelMissing, OllamaError
from switcher.queries.hosts import published_name as published
from switcher.records import published_name
from switcher.records.model_copies import LeaseHolder
from switcher.records.switches import ClaimedSwitch
from switcher.switching.effects import Copy, Delete, Effect, ListInstalled, NotPublished, Steps
from switcher.switching.host_lease import HostLease
from switcher.switching.model_copies import holder_of

log = logging.getLogger(__name__)

MAX_COPIES = 2


def point(held: ClaimedSwitch, model: ModelName, digest: str) -> Steps[None]:
    """Have the published name mean this model, which is about to be the active one. Raises
    NotPublished and OllamaError kinds."""
    if published(held.host_id).wanted:
        yield from _arrange(holder_of(held), (model, digest))


def put_back(held: ClaimedSwitch) -> Steps[None]:
    """A switch is taken back: the name means the active model of before again, or is gone as
    before. What cannot be done now is done later, and is drift until then."""
    now = published(held.host_id)
    if not now.name or (now.digest and now.digest == now.active_digest):
        return
    try:
        yield from _arrange(holder_of(held))
    except (OllamaError, NotPublished) as exc:
        held.note(warning=f"{now.name} does not mean the former model again: {exc.text}")


def settle(ollama: Ollama, hold: HostLease, holder: LeaseHolder, mend: bool) -> None:
    """Carry out what is set, between switches, under the host's lease: make the name, move it,
    take it away. With `mend` also where somebody else pointed or removed it. Raises as
    `Hold.call`, and NotPublished."""
    if not published(hold.host_id).due and not mend:
        return
    steps, answer = _arrange(holder), None
    while True:
        try:
            effect = steps.send(answer)
        except StopIteration:
            return
        answer = _perform(effect, ollama, hold)


def _perform(effect: Effect, ollama: Ollama, hold: HostLease) -> Any:
    match effect:
        case ListInstalled():
            return hold.call(ollama.installed)
        case Copy(source, destination):
            return hold.call(ollama.copy, source.full, destination.full)
        case Delete(name):
            try:
                return hold.call(ollama.delete, name.full)
            except ModelMissing:
                return None  # somebody else was first
    raise AssertionError(f"a name is not arranged by {effect}")


def _arrange(holder: LeaseHolder, becoming: tuple[ModelName, str] | None = None) -> Steps[None]:
    """Look, decide, act, until the name means what it should: the active model, or with `becoming`
    the model of this tag and digest. So what a dead process has left is found, and what somebody
    changes in between: a source that is pulled again would give the name other content."""
    for copied in range(MAX_COPIES + 1):
        installed: tuple[Installed, ...] = yield ListInstalled()
        now = published(holder.host_id)
        now = now.with_active(*becoming) if becoming else now
        todo = plan_published_name(now, installed)
        if todo.delete:
            yield Delete(todo.withdraw)
        if todo.withdraw:
            published_name.release(holder)
        if todo.barred or (todo.source and copied == MAX_COPIES):
            raise NotPublished(todo.barred or unreached_text(now))
        if not todo.source:
            _write_down(holder, now)
            return
        published_name.claim(holder, now.wanted, now.active_tag, now.active_digest)
        yield Copy(todo.source, now.wanted)


def _write_down(holder: LeaseHolder, now: PublishedName) -> None:
    if now.due and now.wanted and now.active_digest:
        published_name.seen(holder, now.wanted, now.active_tag, now.active_digest)
        log.info("%s means %s now", now.wanted, now.active_tag)
