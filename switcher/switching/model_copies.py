"""While a model that a switch loaded is resident, a copy of it is kept on the host: whatever its
name means meanwhile, a name that reaches it remains (facts 21, 23, 24).

It is a help, never a condition: where it cannot be made, the switch goes on without it.
"""

from __future__ import annotations

import logging

from switcher.domain.model_copies import copy_name, reaching
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident, find_digest, find_installed
from switcher.domain.states import State
from switcher.ollama.errors import OllamaError
from switcher.queries.model_copies import ModelCopyRow, model_copies_of
from switcher.records import model_copies
from switcher.records.model_copies import LeaseHolder
from switcher.records.switches import ClaimedSwitch
from switcher.switching.effects import Copy, Delete, ListInstalled, ListResident, Steps
from switcher.switching.jobs import Job

log = logging.getLogger(__name__)


def make_copy(
    held: ClaimedSwitch, job: Job, model: ModelName, digest: str, installed: tuple[Installed, ...]
) -> Steps[None]:
    """Have a copy that means this digest, before it is loaded. `installed` is a fresh catalogue.
    What comes in the way is a warning."""
    known = next((h for h in model_copies_of(held.host_id) if h.digest == digest), None)
    name = known.name if known else copy_name(model, digest)
    there = find_installed(installed, name)
    if known and there and there.digest == digest:
        return
    if not known and there:
        held.note(warning=f"No copy of {model} is held: {name.full} is not Switchboard's.")
        return
    if not model_copies.claim(holder_of(held), digest, model, name):
        return
    try:
        yield Copy(reaching(digest, model, installed) or model, name)
        now: tuple[Installed, ...] = yield ListInstalled()
        made = find_installed(now, name)
        if made is None or made.digest != digest:
            # Pulled again in between: a copy of other content is no way to this one.
            yield Delete(name)
            model_copies.release(holder_of(held), digest)
            held.note(warning=f"No copy of {model} is held: it means other content now.")
    except OllamaError as exc:
        # The name stays claimed: whether it was made is not known.
        held.note(warning=f"No copy of {model} is held: {exc.text}")


def remove_unused_copies(held: ClaimedSwitch, job: Job) -> Steps[None]:
    """After the end, still under the lease: remove the copies of what is not resident any more.
    What cannot be removed now is tidied up later."""
    rows = model_copies_of(held.host_id)
    if not rows or job.course is None:
        return
    try:
        now: tuple[Resident, ...] = yield ListResident()
        for row in rows:
            if find_digest(now, row.digest) is None or _is_theirs(held, job, row):
                yield Delete(row.name)
                model_copies.release(holder_of(held), row.digest)
    except OllamaError as exc:
        log.info("Copies on %s are tidied up later: %s", job.host, exc.text)


def _is_theirs(held: ClaimedSwitch, job: Job, row: ModelCopyRow) -> bool:
    """Somebody else had loaded it, and this switch, which held it, did not make it active."""
    was_here = find_digest(job.known.before, row.digest) is not None
    tried = row.digest == job.known.digest and held.state is not State.ACTIVE
    return tried and was_here and row.made_at >= job.began_at


def holder_of(held: ClaimedSwitch) -> LeaseHolder:
    """The worker of a switch."""
    return LeaseHolder(held.host_id, held.fence, held.actor, held.switch_id, held.clock)
