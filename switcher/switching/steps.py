"""One switch, step by step: a generator of effects over the record that it moves.

Read it from the top: `run` goes on from wherever the record stands. Each `yield` is a point where
the process may die; what was written before it is what the next worker finds (rule 4).
"""

from __future__ import annotations

import logging

from switcher.domain.errors import PlanBlocked, PlanOutdated, SwitcherError
from switcher.domain.model_copies import with_model_names
from switcher.domain.observed import Installed, Resident, find_digest, find_installed
from switcher.domain.plans import Plan
from switcher.domain.specs import load_timeout_s
from switcher.domain.states import State, Strategy
from switcher.ollama.client import Loaded, Warmed
from switcher.ollama.errors import OllamaError
from switcher.queries.gates import GateStatus
from switcher.queries.model_copies import tags_of
from switcher.records.switches import ClaimedSwitch, plan_facts, snapshot
from switcher.switching.effects import (
    Cancelled,
    GateFailed,
    InFlight,
    Interrupted,
    ListInstalled,
    ListResident,
    Load,
    NotPublished,
    NotResident,
    Pause,
    Steps,
    Warm,
)
from switcher.switching.jobs import Course, Job
from switcher.switching.model_copies import make_copy, remove_unused_copies
from switcher.switching.published_name_steps import point
from switcher.switching.residency import (
    ask_to_leave,
    learned,
    load_pinned,
    load_spec,
    look_or_none,
    patiently,
    wait_gone,
)
from switcher.switching.restore import held_text, restore

log = logging.getLogger(__name__)

DRAIN_S = 30.0
GATE_INTERVAL_S = 0.02
TRANSIT_S = 0.25

Failure = (
    OllamaError,
    GateFailed,
    NotResident,
    NotPublished,
    PlanBlocked,
    PlanOutdated,
    Cancelled,
    Interrupted,
)


def run(held: ClaimedSwitch, job: Job) -> Steps[None]:
    """Bring a switch to its end, from the state in which its record stands."""
    try:
        if held.state in (State.QUEUED, State.CHECKING):
            yield from _from_the_start(held, job)
        elif held.state is State.ACTIVATING:
            yield from _finish_activating(held, job)
        elif held.state is State.UNLOADING and job.known.strategy is Strategy.OVERLAP:
            yield from _finish_unloading(held, job)
        elif held.state is State.RESTORING:
            yield from restore(held, job, job.failure or _stopped(held))
        else:
            raise job.failure or _stopped(held)
    except Failure as exc:
        yield from _give_up(held, job, exc)
    yield from remove_unused_copies(held, job)


def _stopped(held: ClaimedSwitch) -> Interrupted:
    return Interrupted(f"Switchboard was stopped while {held.state.value}.")


def _from_the_start(held: ClaimedSwitch, job: Job) -> Steps[None]:
    if held.state is State.QUEUED:
        held.move(State.CHECKING)
    before: tuple[Resident, ...] = yield ListResident()
    before = with_model_names(before, tags_of(held.host_id, before))
    installed: tuple[Installed, ...] = yield ListInstalled()
    plan = job.plan(before, installed)
    job.course = Course(before, plan.strategy, plan.digest, {i.digest: i.name for i in plan.unload})
    held.note(before=snapshot(before), **plan_facts(plan))
    target = _check_plan(job, plan, find_installed(installed, job.spec.name))
    target = yield from learned(target)
    if plan.already_active:
        yield from _confirm_active(held, job, plan, target, installed)
        return
    if plan.strategy is Strategy.SWAP:
        yield from _make_way(held, job, installed)
        held.move(State.LOADING)
    else:
        held.move(State.LOADING)
        yield from make_copy(held, job, job.spec.name, plan.digest, installed)
    yield from _load_and_warm(held, job, target)
    held.move(State.VERIFYING)
    yield from _verify(held, job)
    held.move(State.ACTIVATING)
    yield from _activate(held, job)


def _check_plan(job: Job, plan: Plan, target: Installed | None) -> Installed:
    """Nothing was touched yet: a plan that changed or cannot work ends here."""
    if job.plan_token and plan.token != job.plan_token:
        raise PlanOutdated(f"{job.host} changed after the plan was made.")
    if plan.blocked or target is None:
        raise PlanBlocked(plan.blocked)
    return target


def _confirm_active(
    held: ClaimedSwitch, job: Job, plan: Plan, target: Installed, installed: tuple[Installed, ...]
) -> Steps[None]:
    """Already active: a dead runner is still listed (fact 19), so have it answer once."""
    timeout_s = load_timeout_s(job.spec, target.size)
    yield Warm(job.spec, job.spec.warmups[0], target.embeds_only, timeout_s)
    after: tuple[Resident, ...] = yield ListResident()
    if find_digest(after, plan.digest) is None:
        raise NotResident(f"{job.host} does not list {plan.load.short}, though it answered.")
    yield from make_copy(held, job, job.spec.name, plan.digest, installed)
    yield from _point(held, job)
    held.end(
        State.ACTIVE,
        after=snapshot(after),
        figures={"already_active": True},
        outcome=f"{plan.load.short} was active on {job.host} already, and answers.",
    )


def _point(held: ClaimedSwitch, job: Job) -> Steps[None]:
    """Who follows the name is to find the new model. Where it is the active one already nothing
    changes for them, so nothing is taken back either."""
    try:
        yield from point(held, job.spec.name, job.known.digest)
    except (OllamaError, NotPublished) as exc:
        if job.known.digest != job.from_digest:
            raise
        held.note(warning=f"The published name was not pointed: {exc.text}")


def _make_way(held: ClaimedSwitch, job: Job, installed: tuple[Installed, ...]) -> Steps[None]:
    """Swap: let running requests end, then ask all old models to leave at once. The load is asked
    for right after: the server makes it wait for the room (fact 14), which costs nothing."""
    held.move(State.DRAINING)
    # Before the old model leaves: nothing is to stand between that and the load.
    yield from make_copy(held, job, job.spec.name, job.known.digest, installed)
    running = yield from _drain()
    held.move(State.UNLOADING, note=f"{running} requests run on" if running else "")
    if job.known.leaving:
        _log_leaving(job)
        errors = yield from ask_to_leave(job.known.leaving)
        for digest, text in sorted(errors.items()):
            name = job.known.leaving[digest]
            held.note(warning=f"{name} did not take the unload: {text}")
    if job.known.digest in job.known.leaving:
        # To be loaded anew: a load that comes before it has left would only revive it (fact 3).
        text = yield from wait_gone(frozenset({job.known.digest}))
        if text:
            raise NotResident(f"{job.spec.name} could not be loaded anew: {text}")


def _log_leaving(job: Job) -> None:
    for name in job.known.leaving.values():
        log.info("Unloading old model %s from %s", name, job.host)


def _drain() -> Steps[int]:
    """Wait until the gateway's processes know that requests wait now, and until those that are
    under way have ended, DRAIN_S at most. What runs on is not cut: a busy model stays until its
    requests end (fact 2)."""
    waited = 0.0
    while True:
        now: GateStatus = yield InFlight()
        if not now.unaware and not now.in_flight:
            return 0
        if waited >= DRAIN_S:
            return now.in_flight
        yield Pause(GATE_INTERVAL_S)
        waited += GATE_INTERVAL_S


def _all_know() -> Steps[bool]:
    """Wait until every process of the gateway knows that requests wait now, and until what was let
    through before is written to the host: then none sends one to the old model after the
    configuration has changed. Gives whether there is any process."""
    waited = 0.0
    while True:
        now: GateStatus = yield InFlight()
        if not (now.unaware or now.unsent) or waited >= DRAIN_S:
            return now.processes > 0
        yield Pause(GATE_INTERVAL_S)
        waited += GATE_INTERVAL_S


def _load_and_warm(held: ClaimedSwitch, job: Job, target: Installed) -> Steps[None]:
    timeout_s = load_timeout_s(job.spec, target.size)
    loaded: Loaded = yield Load(job.spec, target.embeds_only, timeout_s)
    log.info("Successfully loaded %s on %s", job.spec.tag, job.host)
    figures = {"load_s": round(loaded.load_s, 3), "file_bytes": target.size}
    if _was_loaded(job):
        figures["was_loaded"] = True  # this tells nothing of how long a load takes
    held.move(State.WARMING, figures=figures)
    answers: list[Warmed] = []
    for warmup in job.spec.warmups:
        warmed: Warmed = yield Warm(job.spec, warmup, target.embeds_only, timeout_s)
        answers.append(warmed)
    speed = max(a.tokens_per_s for a in answers)
    held.note(
        figures={
            "tokens": sum(a.tokens for a in answers),
            "tokens_per_s": round(speed, 2),
            "warm_s": round(sum(a.seconds for a in answers), 3),
        }
    )
    if not target.embeds_only:
        _check_speed(held, job, speed)


def _was_loaded(job: Job) -> bool:
    """Whether it was there all the time: then nothing had to be loaded."""
    here = find_digest(job.known.before, job.known.digest)
    if here is None or here.digest in job.known.leaving:
        return False
    return job.spec.num_ctx in (None, here.context_length)


def _check_speed(held: ClaimedSwitch, job: Job, tokens_per_s: float) -> None:
    floor = job.spec.min_tokens_per_s
    if floor and tokens_per_s < floor:
        text = f"The warm-up ran at {tokens_per_s:.1f} tokens/s; the profile wants {floor:g}."
        _fail_or_warn(held, job, text)


def _verify(held: ClaimedSwitch, job: Job) -> Steps[None]:
    """Physical truth before the configuration changes: the new model is listed by its digest,
    enough of it lies on the GPU, and in a swap the old ones are gone."""
    course = job.known
    now: tuple[Resident, ...] = yield ListResident()
    _check_listed(job, now)
    if course.strategy is Strategy.SWAP:
        still_there = yield from wait_gone(frozenset(course.leaving) - {course.digest})
        if still_there:
            held.note(warning=still_there)
    yield from load_pinned(held, job, course.before)
    now = yield ListResident()
    here = _check_listed(job, now)
    held.note(
        figures={
            "size": here.size,
            "size_vram": here.size_vram,
            "gpu_percent": here.gpu_percent,
            "context_length": here.context_length,
        }
    )
    _check_gpu(held, job, here)


def _check_listed(job: Job, now: tuple[Resident, ...]) -> Resident:
    digest, short = job.known.digest, job.spec.name
    here = find_digest(now, digest)
    if here is not None:
        return here
    other = next((r for r in now if r.name == job.spec.name), None)
    if other is not None:  # fact 23: the name was pointed at other content meanwhile
        raise NotResident(
            f"{short} now means other content ({other.digest[:12]}; planned was {digest[:12]}): "
            "it was pulled or copied over in the middle."
        )
    raise NotResident(f"{job.host} does not list {short}, though it answered.")


def _check_gpu(held: ClaimedSwitch, job: Job, here: Resident) -> None:
    """The offload gate: a model that came up on the CPU is not what was asked for."""
    floor, usual = job.spec.min_gpu_percent, job.usual_gpu_percent(job.known.digest)
    share = f"{here.gpu_percent} % of {here.name} is on the GPU"
    if floor and here.gpu_percent < floor:
        _fail_or_warn(held, job, f"{share}; the profile wants {floor} %.")
    elif usual is not None and here.gpu_percent < usual - 5:
        held.note(warning=f"{share}; last time it was {usual} %.")


def _fail_or_warn(held: ClaimedSwitch, job: Job, text: str) -> None:
    if job.spec.floor_fails:
        raise GateFailed(text)
    held.note(warning=text)


def _finish_activating(held: ClaimedSwitch, job: Job) -> Steps[None]:
    """Taken over just before the configuration changed: finish if the host holds the model."""
    now: tuple[Resident, ...] = yield ListResident()
    _check_listed(job, now)
    installed: tuple[Installed, ...] = yield ListInstalled()
    row = find_installed(installed, job.spec.name)
    embeds = row is not None and (yield from learned(row)).embeds_only
    # A dead runner is still listed (fact 19): then this loads it, which takes its time (fact 9).
    timeout_s = load_timeout_s(job.spec, row.size if row else 0)
    yield Warm(job.spec, job.spec.warmups[0], embeds, timeout_s)
    yield from _activate(held, job)


def _activate(held: ClaimedSwitch, job: Job) -> Steps[None]:
    course = job.known
    if course.strategy is Strategy.OVERLAP:
        passing = yield from _all_know()
        if course.leaving:
            yield from _point(held, job)
            held.activate(State.UNLOADING, course.digest)
            if (
                passing
            ):  # what was written just before is read in a moment; it would load the old one again
                yield Pause(TRANSIT_S)
            yield from _unload_old(held, job)
            return
    after = yield from look_or_none()
    if after is not None:
        _check_listed(job, after)  # lost since it was verified, and nothing is changed yet (rule 6)
    yield from _point(held, job)
    held.activate(State.ACTIVE, course.digest, outcome=_active_text(job), after=_rows(after))


def _finish_unloading(held: ClaimedSwitch, job: Job) -> Steps[None]:
    """Taken over after the activation: what was verified then may be lost by now, and the old
    model leaves only where the new one is there (rule 6)."""
    try:
        yield from patiently(held, lambda: _have_new(held, job))
    except (OllamaError, NotResident) as exc:
        yield from _end_in_doubt(held, job, exc)
    else:
        yield from _unload_old(held, job)


def _unload_old(held: ClaimedSwitch, job: Job) -> Steps[None]:
    """Overlap, after the activation: the old model has to leave, but the switch stands whatever
    becomes of it."""
    leaving = job.known.leaving
    _log_leaving(job)
    try:
        yield from ask_to_leave(leaving)
        text = yield from wait_gone(frozenset(leaving))
    except OllamaError as exc:
        text = f"The old model may still be in memory: {exc.text}"
    if text:
        held.note(warning=text)
    try:
        after = yield from patiently(held, lambda: _have_new(held, job))
    except (OllamaError, NotResident) as exc:
        yield from _end_in_doubt(held, job, exc)
    else:
        held.end(State.ACTIVE, after=snapshot(after), outcome=_active_text(job))


def _have_new(held: ClaimedSwitch, job: Job) -> Steps[tuple[Resident, ...]]:
    """A fresh reading that lists the new model. One that was lost after its activation, evicted
    for a client's load (fact 14) or by a restart, is loaded again."""
    now: tuple[Resident, ...] = yield ListResident()
    if find_digest(now, job.known.digest) is not None:
        return now
    installed: tuple[Installed, ...] = yield ListInstalled()
    row = find_installed(installed, job.spec.name)
    short = job.spec.name
    if row is None or row.digest != job.known.digest:
        raise NotResident(f"the name {short} does not mean it any more")
    yield from load_spec(job.spec, installed)
    held.note(warning=f"{short} left the memory after it was activated; it was loaded again.")
    now = yield ListResident()
    _check_listed(job, now)
    return now


def _end_in_doubt(held: ClaimedSwitch, job: Job, exc: SwitcherError) -> Steps[None]:
    """The switch stands, and what is true of the host is said: that its active model is not there
    (degraded), or that it was not seen."""
    after = yield from look_or_none()
    lost = after is not None and find_digest(after, job.known.digest) is None
    if after is None:
        held.note(warning=f"{job.host} was not seen after the activation: {exc.text}")
    outcome = _lost_text(job, after, exc) if lost else _active_text(job)
    held.end(State.ACTIVE, degraded=lost, after=_rows(after), outcome=outcome)


def _lost_text(job: Job, after: tuple[Resident, ...] | None, exc: SwitcherError) -> str:
    new, cause = job.spec.name, exc.text.rstrip(".")
    return (
        f"{new} was activated, left the memory again, and could not be loaded anew: {cause}. "
        f"{held_text(job, after)}"
    )


def _rows(resident: tuple[Resident, ...] | None) -> list[dict[str, object]] | None:
    return None if resident is None else snapshot(resident)


def _active_text(job: Job) -> str:
    return f"{job.spec.name} is active on {job.host}."


def _untouched_text(job: Job, exc: SwitcherError) -> str:
    advice = exc.advice if isinstance(exc, OllamaError) else ""
    return f"Nothing was touched on {job.host}. {advice}".rstrip()


def _give_up(held: ClaimedSwitch, job: Job, exc: SwitcherError) -> Steps[None]:
    """End a switch that cannot go on: at once where nothing was touched, else by restoring."""
    if held.state in (State.QUEUED, State.CHECKING):
        held.end(
            State.CANCELLED if isinstance(exc, Cancelled) else State.FAILED,
            error_code=exc.code,
            error=exc.text,
            outcome=_untouched_text(job, exc),
        )
        return
    held.move(State.RESTORING, note="stopped here", error_code=exc.code, error=exc.text)
    yield from restore(held, job, exc)
