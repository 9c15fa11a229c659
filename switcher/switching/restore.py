"""Compensation: bring the resident set of before back, verify it, and say what is true.

Ordinary steps with the same guards (rule 11). It is not over before it is verified; where it fails
too, the host is called degraded, loudly, and what it really holds is named.
"""

from __future__ import annotations

from collections.abc import Container

from switcher.domain.errors import SwitcherError
from switcher.domain.observed import Installed, Resident, find_digest, find_installed
from switcher.domain.specs import DEFAULT_WARMUPS, FOREVER, Spec
from switcher.domain.states import State, Strategy
from switcher.ollama.errors import OllamaError, TimedOut, Unreachable
from switcher.records.switches import ClaimedSwitch, snapshot
from switcher.switching.effects import (
    Cancelled,
    Interrupted,
    ListInstalled,
    ListResident,
    NotResident,
    Pause,
    Steps,
)
from switcher.switching.jobs import Job
from switcher.switching.published_name_steps import put_back
from switcher.switching.residency import (
    NOTICED_S,
    ask_to_leave,
    load_spec,
    look_or_none,
    patiently,
    wait_gone,
)

TRIES = 3
UNANSWERED = (Cancelled, Interrupted, TimedOut, Unreachable)


def restore(held: ClaimedSwitch, job: Job, why: SwitcherError) -> Steps[None]:
    """From RESTORING to the end: rolled back, cancelled, or failed and degraded."""
    if isinstance(why, UNANSWERED):
        # A load whose caller went away may come to its end before the server notices (fact 9), and
        # until then nothing shows (fact 8).
        yield Pause(NOTICED_S)
    back: dict[str, None] = {}  # in their order
    try:
        # Giving up at once would leave everyone without a model.
        seen = yield from patiently(held, lambda: _bring_back(held, job, back))
    except (OllamaError, NotResident) as exc:
        yield from put_back(held)
        after = yield from look_or_none()
        held.end(
            State.FAILED,
            degraded=True,
            after=None if after is None else snapshot(after),
            restored="",
            outcome=_degraded_text(job, after, exc),
        )
        return
    yield from put_back(held)
    held.end(
        State.CANCELLED if isinstance(why, Cancelled) else State.ROLLED_BACK,
        after=snapshot(seen),
        restored=", ".join(back),
        outcome=_restored_text(job, why, back),
    )


def _bring_back(
    held: ClaimedSwitch, job: Job, back: dict[str, None]
) -> Steps[tuple[Resident, ...]]:
    """Remove what this switch brought, load what it cost, until a fresh reading shows the old
    set. Gives that reading, and in `back` the names that were loaded again."""
    lost: set[str] = set()
    installed: tuple[Installed, ...] = yield ListInstalled()
    doubted = _asked_to_leave(job)
    for _ in range(TRIES):
        now: tuple[Resident, ...] = yield ListResident()
        extra, missing = _difference(held, job, now, doubted, lost)
        if not extra and not missing:
            return now
        if extra:
            yield from ask_to_leave({r.digest: r.name for r in extra})
            # A load that was cut may end just before the server notices (fact 9).
            text = yield from wait_gone(frozenset(r.digest for r in extra))
            if text:
                held.note(warning=text)
        for old in missing:
            try:
                yield from _load_again(job, old, installed)
            except (OllamaError, NotResident) as exc:
                if _needed(job, old):
                    raise
                lost.add(old.digest)
                held.note(warning=f"{old.name} did not come back: {exc.text}")
            else:
                back[old.name.short] = None
        doubted = frozenset()
    now = yield ListResident()
    extra, missing = _difference(held, job, now, doubted, lost)
    if missing:
        names = ", ".join(r.name.short for r in missing)
        raise NotResident(f"{names} did not stay loaded.")
    return now


def _asked_to_leave(job: Job) -> frozenset[str]:
    """Digests that a swap may have asked to leave. They can still be listed and leave a moment
    later (facts 1, 2), so they are loaded again whatever is listed: that revives them (fact 3)."""
    course = job.known
    return frozenset(course.leaving) if course.strategy is Strategy.SWAP else frozenset()


def _difference(
    held: ClaimedSwitch,
    job: Job,
    now: tuple[Resident, ...],
    doubted: frozenset[str],
    lost: set[str],
) -> tuple[list[Resident], list[Resident]]:
    """What is there because of this switch, and what was there before it and is not now: the
    active model first, so that nothing else keeps it from coming back.

    What others loaded meanwhile is theirs; what expired by itself meanwhile need not come back.
    """
    course = job.known
    was_here = find_digest(course.before, course.digest) is not None
    extra = [] if was_here else [r for r in now if r.digest == course.digest]
    missing = [
        r
        for r in course.before
        if (r.digest in doubted or not _as_before(r, find_digest(now, r.digest)))
        and r.digest not in lost
        and not _expired(held, job, r)
    ]
    return extra, sorted(missing, key=lambda r: r.digest != job.from_digest)


def _needed(job: Job, old: Resident) -> bool:
    """Whether it is the active model, or all that there was while none was active: without it the
    old state is not back. Any other that does not come back is reported."""
    was_active = find_digest(job.known.before, job.from_digest)
    return was_active is None or old.digest == job.from_digest


def _expired(held: ClaimedSwitch, job: Job, old: Resident) -> bool:
    """Whether its time had run out by itself by now. What this switch unloaded or what is wanted
    here comes back all the same."""
    wanted = {job.from_digest, *job.known.leaving}
    if old.digest in wanted or old.name in {p.name for p in job.pinned}:
        return False
    return old.expires_at is not None and old.expires_at <= held.clock.now()


def _as_before(old: Resident, here: Resident | None) -> bool:
    """Resident again with the same context: one loaded with other options is not the same."""
    return here is not None and here.context_length == old.context_length


def _load_again(job: Job, old: Resident, installed: tuple[Installed, ...]) -> Steps[None]:
    """Load a model as it was: its own profile's way if we know it, else its name and keep-alive."""
    row = find_installed(installed, old.name)
    if row is None or row.digest != old.digest:
        what = "is not on the host any more" if row is None else "means other content now"
        raise NotResident(f"{old.name} cannot come back: the name {what}.")
    yield from load_spec(_spec_for(job, old), installed)


def _spec_for(job: Job, old: Resident) -> Spec:
    for spec in (job.from_spec, *job.pinned):
        if spec is not None and spec.name == old.name:
            return spec
    keep_alive = FOREVER if old.stays else "30m"
    return Spec(profile="", tag=old.name.full, keep_alive=keep_alive, warmups=DEFAULT_WARMUPS)


def _old_active(job: Job) -> str:
    return job.from_spec.name.short if job.from_spec else ""


def _restored_text(job: Job, why: SwitcherError, back: Container[str]) -> str:
    new, old = job.spec.name, _old_active(job)
    what = "was cancelled" if isinstance(why, Cancelled) else "did not become active"
    was = find_digest(job.known.before, job.from_digest)
    if not old or was is None:
        before = f": {old} was not in memory" if old else ""
        return f"{new} {what}. {job.host} is as it was before{before}."
    if was.name.short in back:
        return f"{new} {what}. {old} is active again."
    return f"{new} {what}. {old} stays active; it was not touched."


def _degraded_text(job: Job, after: tuple[Resident, ...] | None, exc: SwitcherError) -> str:
    new, old = job.spec.name, _old_active(job) or "what was loaded before"
    cause = exc.text.rstrip(".")
    what = f"{new} did not become active, and {old} did not come back: {cause}."
    return f"{what} {held_text(job, after)}"


def held_text(job: Job, after: tuple[Resident, ...] | None) -> str:
    """What the host was seen to hold, as a sentence."""
    if after is None:
        return f"{job.host} does not answer, so what it holds is not known."
    if after:
        return f"{job.host} holds {', '.join(r.name.short for r in after)}."
    return f"{job.host} holds no model."
