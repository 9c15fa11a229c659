"""Load the new model, have it answer, and verify it, before anything is activated."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident, find_digest
from switcher.domain.plan_room import GPU_FALL
from switcher.domain.specs import load_timeout_s
from switcher.domain.states import State, Strategy
from switcher.ollama.client import Warmed
from switcher.queries.history import usual_gpu_percent
from switcher.records import pins
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.records.memory import learn_default_contexts
from switcher.switching.effects import ListResident, Load, Steps, Warm
from switcher.switching.errors import BelowFloor, NotResident
from switcher.switching.residency import load_pinned, wait_until_unloaded

log = logging.getLogger(__name__)

STUCK_S = 30.0  # a load that took longer, and was cut, tells that the server may wait for room


def load_and_warm(switch: ClaimedSwitch, target: Installed) -> Steps[None]:
    """Load the model, then have it answer each warm-up prompt. Raises BelowFloor if it is slower
    than the profile allows."""
    spec, timeout_s = switch.spec.under(target.name), load_timeout_s(switch.spec, target.size)
    figures: dict[str, Any] = {}
    if not switch.plan.cloud:
        load_s: float = yield Load(spec, target.embeds_only, timeout_s)
        log.info("Successfully loaded %s on %s", switch.spec.tag, switch.host)
        figures = {"load_s": round(load_s, 3), "file_bytes": target.size}
    if _was_loaded(switch):
        figures["was_loaded"] = True  # so this is no measure of how long a load takes
    switch.move(State.WARMING, figures=figures)
    answers: list[Warmed] = []
    for warmup in spec.warmups:
        answers.append((yield Warm(spec, warmup, target.embeds_only, timeout_s)))
    speed = max(answer.tokens_per_s for answer in answers)
    switch.note(
        figures={
            "tokens": sum(answer.tokens for answer in answers),
            "tokens_per_s": round(speed, 2),
            "warm_s": round(sum(answer.seconds for answer in answers), 3),
        }
    )
    if not target.embeds_only:
        _check_speed(switch, speed)


def _was_loaded(switch: ClaimedSwitch) -> bool:
    """Return whether the model was loaded before the switch and has stayed, so that nothing had to
    be loaded."""
    before = find_digest(switch.plan.before, switch.plan.digest)
    if before is None or before.digest in switch.plan.unload:
        return False
    return switch.spec.num_ctx in (None, before.context_length)


def verify(switch: ClaimedSwitch) -> Steps[None]:
    """Check what the host really holds before the configuration changes: the new model is listed by
    its digest, enough of it is on the GPU, and after a swap the old models are gone.

    Raises NotResident, BelowFloor.
    """
    now: tuple[Resident, ...] = yield ListResident()
    check_listed(switch, now)
    if switch.plan.strategy is Strategy.SWAP:
        old = frozenset(switch.plan.unload) - {switch.plan.digest}
        warning = yield from wait_until_unloaded(old)
        if warning:
            switch.warn(warning)
    before: tuple[Resident, ...] = yield ListResident()
    pinned = yield from load_pinned(switch, before)
    now = yield ListResident()
    _keep_pinned(switch, pinned, now)
    model = check_listed(switch, now)
    learn_limit(switch, now)
    learn_default_contexts(switch.host_id, _loaded_unasked(switch, before, now), switch.clock.now())
    if model is None:
        return
    asked = switch.spec.num_ctx
    if asked and 0 < model.context_length < asked:
        switch.warn(
            f"{asked:,} tokens of context were asked for, and {model.name} got "
            f"{model.context_length:,}, which is the most that the server gives it."
        )
    switch.note(
        figures={
            "size": model.size,
            "size_vram": model.size_vram,
            "gpu_percent": model.gpu_percent,
            "context_length": model.context_length,
        }
    )
    _check_gpu(switch, model)


def _loaded_unasked(
    switch: ClaimedSwitch, before: tuple[Resident, ...], now: tuple[Resident, ...]
) -> list[Resident]:
    """Return the models that this switch loaded without a `num_ctx`: the new one, which such a
    request reloads if somebody else had asked for another context (fact 12), and pinned ones that
    were not loaded before."""
    pins = {spec.name for spec in switch.pinned if spec.num_ctx is None}
    found = [r for r in now if r.name in pins and find_digest(before, r.digest) is None]
    model = find_digest(now, switch.plan.digest)
    return [*found, model] if model is not None and switch.spec.num_ctx is None else found


def _keep_pinned(
    switch: ClaimedSwitch, pinned: Mapping[ModelName, str], now: tuple[Resident, ...]
) -> None:
    """Record what the pinned models are that are loaded. `pinned` are their digests by name."""
    for name, digest in pinned.items():
        if find_digest(now, digest) is not None:
            pins.keep_digest(switch.holder, name, digest)


def learn_limit(switch: ClaimedSwitch, now: tuple[Resident, ...]) -> None:
    """Learn how many models the server keeps loaded at once, if it evicted one in an overlap
    although there was room for all: that is its limit (fact 14)."""
    if not _had_room_in_overlap(switch):
        return
    at = switch.clock.now()
    before = [r for r in switch.plan.before if r.expires_at is None or r.expires_at > at]
    evicted = [r.name.short for r in before if find_digest(now, r.digest) is None]
    if evicted:
        switch.learn_limit(len(now))
        switch.warn(
            f"Ollama evicted {', '.join(evicted)} although there was room: it keeps at most "
            f"{len(now)} loaded. The next plans count on that: set the limit on the host's page if "
            "it is another."
        )


def learn_stuck_limit(switch: ClaimedSwitch, now: tuple[Resident, ...]) -> None:
    """Learn the limit from a load that never came although there was room: at its limit, the server
    waits until a model is idle, and a busy one never is (fact 14)."""
    waited_s = switch.seconds_in(State.LOADING)
    stayed = all(find_digest(now, r.digest) for r in switch.plan.before)
    if not _had_room_in_overlap(switch) or not now or not stayed or waited_s < STUCK_S:
        return
    if find_digest(now, switch.plan.digest) is None:
        switch.learn_limit(len(now))
        switch.warn(
            f"The load waited {waited_s:.0f} s although there was room, as if Ollama kept at most "
            f"{len(now)} loaded. The next plans count on that: set the limit on the host's page if "
            "it is another."
        )


def _had_room_in_overlap(switch: ClaimedSwitch) -> bool:
    return switch.plan.strategy is Strategy.OVERLAP and switch.plan.had_room


def check_listed(switch: ClaimedSwitch, resident: tuple[Resident, ...]) -> Resident | None:
    """Return the new model as `/api/ps` lists it, found by its digest; None for a cloud model,
    which is never listed. Raises NotResident."""
    if switch.plan.cloud:
        return None
    name, digest = switch.spec.name, switch.plan.digest
    model = find_digest(resident, digest)
    if model is not None:
        return model
    other = next((r for r in resident if r.name == name), None)
    if other is not None:  # fact 23: the name was pointed at other content meanwhile
        raise NotResident(
            f"{name} now means other content ({other.digest[:12]}; planned was {digest[:12]}): "
            "it was pulled or copied over during the switch."
        )
    raise NotResident(f"{switch.host} does not list {name}, though it answered.")


def _check_speed(switch: ClaimedSwitch, tokens_per_s: float) -> None:
    floor = switch.spec.min_tokens_per_s
    if floor and tokens_per_s < floor:
        text = f"The warm-up ran at {tokens_per_s:.1f} tokens/s; the profile wants {floor:g}."
        _fail_or_warn(switch, text)


def _check_gpu(switch: ClaimedSwitch, model: Resident) -> None:
    """Check the offload floor: a model that was loaded to the CPU is not what was requested."""
    floor, usual = switch.spec.min_gpu_percent, usual_gpu_percent(switch.host_id, model.digest)
    share = f"{model.gpu_percent} % of {model.name} is on the GPU"
    if floor and model.gpu_percent < floor:
        _fail_or_warn(switch, f"{share}; the profile wants {floor} %.")
    elif usual is not None and model.gpu_percent < usual - GPU_FALL:
        switch.warn(f"{share}; last time it was {usual} %.")


def _fail_or_warn(switch: ClaimedSwitch, text: str) -> None:
    if switch.spec.floor_fails:
        raise BelowFloor(text)
    switch.warn(text)
