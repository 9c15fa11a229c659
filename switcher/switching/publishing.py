"""One name on the server that means the active model: pointed at it when it becomes active, put
back where a switch is taken back (facts 21, 22).

Unlike the copies that hold models this is part of the switch: where it cannot be pointed, clients
that follow it would load the old model again, so the switch does not go through.
"""

from __future__ import annotations

import logging

from switcher.handles import named, reaching
from switcher.observed import Installed, full_name, short_name
from switcher.ollama.client import Ollama
from switcher.ollama.errors import ModelMissing, OllamaError
from switcher.queries.publishing import Published, published
from switcher.records import publishing
from switcher.records.handles import Holder
from switcher.records.switches import Held
from switcher.switching.effects import Catalogue, Copy, Delete, NotPublished, Steps
from switcher.switching.holding import holder_of
from switcher.switching.jobs import Job
from switcher.switching.upkeep import Hold

log = logging.getLogger(__name__)

TRIES = 2


def point(held: Held, job: Job, tag: str, digest: str) -> Steps[None]:
    """Have the published name mean this model, if the host has one. Raises NotPublished and
    OllamaError kinds."""
    now = published(held.host_id)
    if not now.wanted:
        return
    installed: tuple[Installed, ...] = yield Catalogue()
    if now.name != now.wanted and named(installed, now.wanted) is not None:
        raise NotPublished(taken_text(now.wanted, job.host))
    publishing.claim(holder_of(held), now.wanted, full_name(tag), digest)
    for _ in range(TRIES):
        if _means(installed, now.wanted, digest):
            return
        source = reaching(digest, full_name(tag), installed)
        if not source:
            break
        yield Copy(source, now.wanted)
        # Pulled again in between, the source would have meant other content: so it is looked at.
        installed = yield Catalogue()
    if not _means(installed, now.wanted, digest):
        raise NotPublished(f"No name on {job.host} means {short_name(tag)} as it was loaded.")


def _means(installed: tuple[Installed, ...], name: str, digest: str) -> bool:
    there = named(installed, name)
    return there is not None and there.digest == digest


def put_back(held: Held, job: Job) -> Steps[None]:
    """A switch is taken back: the name means the former model again, or is gone as before. What
    cannot be done now is done later, and is drift until then."""
    now = published(held.host_id)
    if not now.name or now.digest == job.from_digest:
        return
    try:
        if job.from_spec is not None and job.from_digest:
            yield from point(held, job, job.from_spec.tag, job.from_digest)
        else:
            yield Delete(now.name)
            publishing.release(holder_of(held))
    except (OllamaError, NotPublished) as exc:
        held.note(warning=f"{now.name} does not mean the former model again: {exc.text}")


def taken_text(name: str, host: str) -> str:
    """Why a name is not written."""
    return (
        f"{host} has a model {short_name(name)} that is not Switchboard's. "
        "Choose another published name, or remove that model."
    )


# -- Between switches


def settle(ollama: Ollama, hold: Hold, holder: Holder, mend: bool) -> None:
    """Carry out what is set, between switches, under the host's lease: make the name, move it,
    take it away. With `mend` also where somebody else pointed or removed it. Raises as
    `Hold.call`, and NotPublished."""
    now = published(hold.host_id)
    if not now.due and not mend:
        return
    installed: tuple[Installed, ...] = hold.call(ollama.installed)
    if (now.name and now.name != now.wanted) or (now.name and not now.active_digest):
        _withdraw(ollama, hold, holder, now, installed)
        now = published(hold.host_id)
    if now.wanted and now.active_digest:
        _make(ollama, hold, holder, now, installed)


def _withdraw(
    ollama: Ollama, hold: Hold, holder: Holder, now: Published, installed: tuple[Installed, ...]
) -> None:
    there = named(installed, now.name)
    if there is not None and there.digest == now.digest:
        try:
            hold.call(ollama.delete, now.name)
        except ModelMissing:
            pass  # somebody else was first
    publishing.release(holder)


def _make(
    ollama: Ollama, hold: Hold, holder: Holder, now: Published, installed: tuple[Installed, ...]
) -> None:
    there = named(installed, now.wanted)
    if there is not None and now.name != now.wanted:
        raise NotPublished(taken_text(now.wanted, "The host"))
    source = reaching(now.active_digest, full_name(now.active_tag), installed)
    if not source:
        raise NotPublished(f"No name on the host means {short_name(now.active_tag)} any more.")
    publishing.claim(holder, now.wanted, full_name(now.active_tag), now.active_digest)
    if there is None or there.digest != now.active_digest:
        hold.call(ollama.copy, source, now.wanted)
        log.info("%s means %s now", now.wanted, now.active_tag)
