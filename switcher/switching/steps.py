"""The order of a switch: a generator of effects, and of writes to the record between them.

Read it from the top. Each `yield` is a point where the process may die; what was written before it
is what the next worker finds (rule 4), and `run` continues from there.

    queued → checking → loading → warming → verifying → activating → unloading → active   overlap
    queued → checking → draining → unloading → loading → warming → verifying → activating → active

The second line is a swap. Anything that fails after *checking* leads to *restoring* (`restore.py`).
"""

from __future__ import annotations

import logging

from switcher.domain.errors import PlanBlocked, PlanOutdated, SwitcherError
from switcher.domain.memory import ModelFacts
from switcher.domain.model_copies import find_content, with_content, with_model_names
from switcher.domain.observed import Installed, Resident, find_digest, find_installed
from switcher.domain.plans import Plan, no_answers
from switcher.domain.specs import load_timeout_s
from switcher.domain.states import State, Strategy
from switcher.ollama.errors import OllamaError, TimedOut
from switcher.queries.desired import WATCHER
from switcher.queries.memory import made_of_same_file, without_facts
from switcher.queries.model_copies import tags_of
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.records.memory import keep_facts
from switcher.switching.effects import (
    DescribeModel,
    ListInstalled,
    ListResident,
    Pause,
    Steps,
    Warm,
)
from switcher.switching.errors import (
    BelowFloor,
    Cancelled,
    Interrupted,
    NotPublished,
    NotResident,
)
from switcher.switching.gateway_waits import drain, wait_until_gate_is_known
from switcher.switching.loading import check_listed, learn_stuck_limit, load_and_warm, verify
from switcher.switching.model_copies import make_copy, remove_unused_copies
from switcher.switching.planning import plan_switch
from switcher.switching.published_name_steps import point_published_name
from switcher.switching.residency import (
    as_recorded,
    list_resident_if_possible,
    load_spec,
    request_unload,
    retry_while_unreachable,
    wait_until_unloaded,
    with_capabilities,
)
from switcher.switching.restore import resident_text, restore
from switcher.switching.waking import wake_if_asleep

log = logging.getLogger(__name__)

# A request that was sent just before the gate closed is read by the server within this time.
TRANSIT_S = 0.25

Failure = (
    OllamaError,
    BelowFloor,
    NotResident,
    NotPublished,
    PlanBlocked,
    PlanOutdated,
    Cancelled,
    Interrupted,
)


def run(switch: ClaimedSwitch) -> Steps[None]:
    """Bring a switch to its end, starting from the state in its record."""
    try:
        if switch.state in (State.QUEUED, State.CHECKING):
            yield from _run_from_start(switch)
        else:
            yield from _resume(switch)
    except Failure as exc:
        yield from _fail(switch, exc)
    yield from remove_unused_copies(switch)


def _run_from_start(switch: ClaimedSwitch) -> Steps[None]:
    if switch.state is State.QUEUED:
        switch.move(State.CHECKING)
    yield from wake_if_asleep(switch)
    plan, installed = yield from _make_plan(switch)
    target = yield from with_capabilities(_check_plan(switch, plan, installed))
    if not target.answers:
        raise PlanBlocked(no_answers(target))
    if plan.already_active:
        yield from _confirm_active(switch, target, installed)
        return
    if plan.strategy is Strategy.SWAP:
        yield from _make_room(switch, installed)
        switch.move(State.LOADING)
    else:
        switch.move(State.LOADING)
        yield from make_copy(switch, switch.spec.name, plan.digest, installed)
    yield from load_and_warm(switch, target)
    switch.move(State.VERIFYING)
    yield from verify(switch)
    switch.move(State.ACTIVATING)
    yield from _activate(switch)


def _resume(switch: ClaimedSwitch) -> Steps[None]:
    """Continue a switch whose worker died after it had begun to touch the host."""
    if switch.state is State.ACTIVATING:
        yield from _resume_activating(switch)
    elif switch.state is State.UNLOADING and switch.plan.strategy is Strategy.OVERLAP:
        yield from _resume_unloading(switch)
    elif switch.state is State.RESTORING:
        yield from restore(switch, _why_interrupted(switch))
    else:
        raise _why_interrupted(switch)


def _why_interrupted(switch: ClaimedSwitch) -> SwitcherError:
    row = switch.row
    if row.error and row.error_code != Cancelled.code:
        return Interrupted(row.error)
    if row.cancel_asked_by:
        return Cancelled(row.cancel_asked_by)
    return Interrupted(f"Switchboard was stopped while {switch.state.value}.")


# --- checking: nothing is touched yet ----------------------------------------------------------


def _make_plan(switch: ClaimedSwitch) -> Steps[tuple[Plan, tuple[Installed, ...]]]:
    resident: tuple[Resident, ...] = yield ListResident()
    installed: tuple[Installed, ...] = yield ListInstalled()
    for row in _models_of_plan(switch, resident, installed):
        yield from _describe(switch, row)
    before = with_model_names(resident, tags_of(switch.host_id, resident))
    strategy = Strategy(switch.row.strategy_asked)
    named = installed
    if switch.row.source == WATCHER:
        # A repair brings back what was activated, whatever its name points to by now (fact 23).
        named = with_content(installed, switch.spec.name, switch.row.host.active_digest)
    plan = plan_switch(switch.row.host, switch.spec, strategy, before, named)
    switch.record_plan(plan, before)
    return plan, installed


def _models_of_plan(
    switch: ClaimedSwitch, resident: tuple[Resident, ...], installed: tuple[Installed, ...]
) -> list[Installed]:
    """Return the new model and the loaded ones, as they are installed."""
    rows = [find_installed(installed, switch.spec.name)]
    rows += [find_content(r.digest, r.name, installed) for r in resident]
    return [row for row in rows if row is not None and not row.is_cloud]


def _describe(switch: ClaimedSwitch, target: Installed) -> Steps[None]:
    """Have the server describe a model once, so that the plan can tell how much memory it takes.
    Without an answer, the plan does without."""
    if not without_facts([target.digest]):
        return
    try:
        facts: ModelFacts | None = yield DescribeModel(target.name)
    except OllamaError as exc:
        log.info("%s was not described: %s", target.name, exc.text)
    else:
        keep_facts(target.digest, facts, switch.clock.now())


def _check_plan(switch: ClaimedSwitch, plan: Plan, installed: tuple[Installed, ...]) -> Installed:
    """Return the new model as it is installed, under a name that reaches it. Raises PlanOutdated,
    PlanBlocked."""
    if switch.row.plan_token not in ("", plan.token):
        raise PlanOutdated(f"{switch.host} changed after the plan was made.")
    target = find_content(plan.digest, switch.spec.name, installed)
    if plan.blocked or target is None:
        raise PlanBlocked(plan.blocked)
    return target


def _confirm_active(
    switch: ClaimedSwitch, target: Installed, installed: tuple[Installed, ...]
) -> Steps[None]:
    """Confirm that the model, which is active already, still answers: a dead runner is listed, too
    (fact 19)."""
    spec = switch.spec.under(target.name)
    yield Warm(spec, spec.warmups[0], target.embeds_only, load_timeout_s(spec, target.size))
    after: tuple[Resident, ...] = yield ListResident()
    check_listed(switch, after)
    yield from make_copy(switch, spec.name, switch.plan.digest, installed)
    yield from point_published_name(switch)
    switch.end(
        State.ACTIVE,
        after=as_recorded(switch, after),
        figures={"already_active": True},
        outcome=f"{spec.name} was active on {switch.host} already, and answers.",
    )


# --- swap: the old models leave first ----------------------------------------------------------


def _make_room(switch: ClaimedSwitch, installed: tuple[Installed, ...]) -> Steps[None]:
    """Let running requests end, then request the unload of all old models at once.

    The load is requested right afterwards, without waiting for the unload: the server makes it wait
    until there is room (fact 14).
    """
    switch.move(State.DRAINING)
    # Now, so that nothing stands between the unload and the load.
    yield from make_copy(switch, switch.spec.name, switch.plan.digest, installed)
    running = yield from drain()
    switch.move(State.UNLOADING, note=f"{running} requests run on" if running else "")
    old = switch.plan.unload
    if old:
        _log_unload(switch)
        errors = yield from request_unload(old)
        for digest, text in sorted(errors.items()):
            switch.warn(f"{old[digest]} did not take the unload: {text}")
    same_file = {switch.plan.digest, *made_of_same_file(switch.plan.digest, old)}
    if leaving_first := frozenset(old) & same_file:
        # The new model itself is loaded anew, or one with its file leaves. A load that came before
        # would cancel the unload (facts 3 and 21).
        text = yield from wait_until_unloaded(leaving_first)
        if text:
            raise NotResident(f"{switch.spec.name} could not be loaded anew: {text}")


def _log_unload(switch: ClaimedSwitch) -> None:
    for name in switch.plan.unload.values():
        log.info("Unloading old model %s from %s", name, switch.host)


# --- activating: the configuration changes -----------------------------------------------------


def _activate(switch: ClaimedSwitch) -> Steps[None]:
    plan = switch.plan
    if plan.strategy is Strategy.OVERLAP:
        has_gateway = yield from wait_until_gate_is_known()
        if plan.unload:
            yield from point_published_name(switch)
            switch.activate(State.UNLOADING, plan.digest)
            if has_gateway:
                # A request that the server has not read yet would load the old model again.
                yield Pause(TRANSIT_S)
            yield from _unload_old(switch)
            return
    after = yield from list_resident_if_possible()
    if after is not None:
        check_listed(switch, after)  # it may have left since it was verified (rule 6)
    yield from point_published_name(switch)
    switch.activate(
        State.ACTIVE, plan.digest, outcome=_active_text(switch), after=_rows(switch, after)
    )


def _resume_activating(switch: ClaimedSwitch) -> Steps[None]:
    """Continue after the worker died just before the configuration changed: finish if the model is
    loaded."""
    now: tuple[Resident, ...] = yield ListResident()
    check_listed(switch, now)
    installed: tuple[Installed, ...] = yield ListInstalled()
    row, spec = find_content(switch.plan.digest, switch.spec.name, installed), switch.spec
    if row is not None:
        spec = spec.under(row.name)
    embeds = row is not None and (yield from with_capabilities(row)).embeds_only
    # A dead runner is still listed (fact 19). Then this loads it, and may take as long as a load.
    yield Warm(spec, spec.warmups[0], embeds, load_timeout_s(spec, row.size if row else 0))
    yield from _activate(switch)


# --- overlap: the old models leave last --------------------------------------------------------


def _unload_old(switch: ClaimedSwitch) -> Steps[None]:
    """Unload the old models. The new one is active, so nothing that happens here fails the
    switch."""
    _log_unload(switch)
    try:
        yield from request_unload(switch.plan.unload)
        warning = yield from wait_until_unloaded(frozenset(switch.plan.unload))
    except OllamaError as exc:
        warning = f"The old model may still be in memory: {exc.text}"
    if warning:
        switch.warn(warning)
    try:
        after = yield from retry_while_unreachable(switch, lambda: _ensure_loaded(switch))
    except (OllamaError, NotResident) as exc:
        yield from _end_in_doubt(switch, exc)
    else:
        switch.end(State.ACTIVE, after=as_recorded(switch, after), outcome=_active_text(switch))


def _resume_unloading(switch: ClaimedSwitch) -> Steps[None]:
    """Continue after the worker died after the activation. The new model may have left since, and
    the old one is unloaded only while the new one is loaded (rule 6)."""
    try:
        yield from retry_while_unreachable(switch, lambda: _ensure_loaded(switch))
    except (OllamaError, NotResident) as exc:
        yield from _end_in_doubt(switch, exc)
    else:
        yield from _unload_old(switch)


def _ensure_loaded(switch: ClaimedSwitch) -> Steps[tuple[Resident, ...]]:
    """Return a fresh reading that lists the new model. If it has left since the activation, because
    of a client's load (fact 14) or a restart, load it again."""
    now: tuple[Resident, ...] = yield ListResident()
    if switch.plan.cloud or find_digest(now, switch.plan.digest) is not None:
        return now
    name = switch.spec.name
    installed: tuple[Installed, ...] = yield ListInstalled()
    row = find_content(switch.plan.digest, name, installed)
    if row is None:
        raise NotResident(f"the name {name} does not mean it any more")
    yield from load_spec(switch.spec.under(row.name), installed)
    switch.warn(f"{name} left the memory after it was activated; it was loaded again.")
    now = yield ListResident()
    check_listed(switch, now)
    return now


def _end_in_doubt(switch: ClaimedSwitch, exc: SwitcherError) -> Steps[None]:
    """End a switch whose new model was not seen loaded after its activation: either the model is
    lost, and the host becomes degraded, or the host does not answer."""
    after = yield from list_resident_if_possible()
    is_listed = after is None or find_digest(after, switch.plan.digest) is not None
    lost = not switch.plan.cloud and not is_listed
    if after is None:
        switch.warn(f"{switch.host} was not seen after the activation: {exc.text}")
    outcome = _lost_text(switch, after, exc) if lost else _active_text(switch)
    switch.end(State.ACTIVE, degraded=lost, after=_rows(switch, after), outcome=outcome)


# --- the end ------------------------------------------------------------------------------------


def _fail(switch: ClaimedSwitch, exc: SwitcherError) -> Steps[None]:
    """End a switch that cannot continue: at once if nothing was touched, else by restoring."""
    if switch.state in (State.QUEUED, State.CHECKING):
        switch.end(
            State.CANCELLED if isinstance(exc, Cancelled) else State.FAILED,
            error_code=exc.code,
            error=exc.text,
            outcome=_untouched_text(switch, exc),
        )
        return
    may_tell_limit = switch.state is State.LOADING and isinstance(exc, TimedOut | Cancelled)
    switch.move(State.RESTORING, note="stopped here", error_code=exc.code, error=exc.text)
    if may_tell_limit:
        now = yield from list_resident_if_possible()
        if now is not None:
            learn_stuck_limit(switch, now)
    yield from restore(switch, exc)


def _rows(
    switch: ClaimedSwitch, resident: tuple[Resident, ...] | None
) -> list[dict[str, object]] | None:
    return None if resident is None else as_recorded(switch, resident)


def _active_text(switch: ClaimedSwitch) -> str:
    return f"{switch.spec.name} is active on {switch.host}."


def _lost_text(
    switch: ClaimedSwitch, after: tuple[Resident, ...] | None, exc: SwitcherError
) -> str:
    cause = exc.text.rstrip(".")
    return (
        f"{switch.spec.name} was activated, left the memory again, and could not be loaded anew: "
        f"{cause}. {resident_text(switch, after)}"
    )


def _untouched_text(switch: ClaimedSwitch, exc: SwitcherError) -> str:
    advice = exc.advice if isinstance(exc, OllamaError) else ""
    return f"Nothing was touched on {switch.host}. {advice}".rstrip()
