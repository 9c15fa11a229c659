"""The plan of a switch: what is unloaded and loaded, whether it fits, and how long it takes. Pure:
no I/O, no Django.

Each estimate names its source. What is not known is None, never guessed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from switcher.domain.model_names import NO_NAME, ModelName
from switcher.domain.observed import Installed
from switcher.domain.plan_inputs import Expected, Item, PlanInputs
from switcher.domain.plan_room import (
    Room,
    SortedModels,
    choose_strategy,
    evicted,
    fits_context,
    has_room,
    make_room,
    sort_models,
    sum_bytes,
)
from switcher.domain.states import PHASES, State, Strategy
from switcher.domain.wording import gb


@dataclass(frozen=True, slots=True)
class Plan:
    """What a switch will do. `token` identifies the state of the host that the plan was made
    for."""

    host: str
    model: ModelName
    profile: str
    digest: str
    strategy: Strategy
    strategy_reason: str
    unload: tuple[Item, ...]
    load: Item
    keep: tuple[Item, ...]
    reload: tuple[Item, ...]  # pinned models that are loaded as well
    bytes_before: int
    bytes_after: int
    bytes_peak: int
    vram_bytes: int | None
    fits: bool | None
    short_bytes: int
    blocked: str
    expected: dict[str, Expected]
    already_active: bool
    stays: bool  # the model is active already and stays loaded
    restore: ModelName  # the old active model, which comes back if the switch fails
    warmups: int
    published: str  # the name that is pointed at the model before it becomes active
    cannot_publish: str  # why not; blocks, unless the model is active already
    cloud: bool  # it runs elsewhere: nothing is loaded, and prompts leave the machine
    context: int  # tokens that it is expected to get; 0 if unknown
    size_basis: str  # learned, computed or guessed
    fits_context: int  # the largest context with which it would fit; 0 if it fits, or none would
    warnings: tuple[str, ...]
    had_room: bool  # it fits beside all that is loaded
    token: str

    @property
    def expected_s(self) -> float | None:
        """The seconds that the whole switch takes, or None if no load was ever measured."""
        load = self.expected.get(State.LOADING)
        if load is None:
            return None
        return sum(e.seconds for e in self.expected.values())

    @property
    def without_model_s(self) -> float | None:
        """The seconds during which the host has no model that can answer; 0 in an overlap."""
        if self.strategy is Strategy.OVERLAP or self.already_active:
            return 0.0
        return self.expected_s

    @property
    def context_advice(self) -> str:
        """Return in words with which context a model that does not fit would."""
        if self.fits is not False or not self.context:
            return ""
        lacks = f"with {self.context:,} tokens of context it lacks {gb(self.short_bytes)} GB"
        if not self.fits_context:
            return lacks
        return f"it fits with up to {self.fits_context:,} tokens of context; {lacks}"

    @property
    def free_after(self) -> int | None:
        return None if self.vram_bytes is None else self.vram_bytes - self.bytes_after

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "model": self.model.full,
            "unload": [i.to_json() for i in self.unload],
            "load": self.load.to_json(),
            "keep": [i.to_json() for i in self.keep],
            "reload": [i.to_json() for i in self.reload],
            "restore": self.restore.full,
            "expected_s": self.expected_s,
            "without_model_s": self.without_model_s,
            "warnings": list(self.warnings),
            "context_advice": self.context_advice,
        }


def plan_token(inputs: PlanInputs) -> str:
    """Return a short token that changes when the plan may no longer hold. It covers all that the
    plan depends on, except when models expire and how long phases are expected to take."""
    facts = (
        sorted((r.digest, r.size, r.size_vram, r.context_length) for r in inputs.resident),
        inputs.active_digest,
        inputs.target.digest if inputs.target else "",
        inputs.vram_bytes,
        sorted([*inputs.pinned, *(i.digest for i in inputs.missing)]),
        (inputs.asked.value, inputs.host_strategy.value),
        inputs.spec.to_json(),
        inputs.allows_cloud if inputs.is_cloud else None,
        inputs.max_loaded,
        inputs.parallel_requests,
    )
    text = json.dumps(facts, sort_keys=True)
    return "p-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def make_plan(inputs: PlanInputs) -> Plan:
    """Decide what is unloaded, what stays, and in which order, and give the reason in numbers."""
    models = sort_models(inputs)
    strategy, reason = choose_strategy(inputs, models)
    room = make_room(inputs, models)
    before = sum(r.bytes for r in inputs.resident)
    after = sum_bytes(room.keep) + models.need
    unknown = inputs.vram_bytes is None or not models.target_size.known
    return Plan(
        host=inputs.host,
        model=inputs.spec.name,
        profile=inputs.spec.profile,
        digest=models.load.digest,
        strategy=strategy,
        strategy_reason=reason,
        unload=tuple(room.unload),
        load=models.load,
        keep=tuple(room.keep),
        reload=tuple(models.missing),
        bytes_before=before,
        bytes_after=after,
        bytes_peak=max(before, after) if strategy is Strategy.SWAP else models.all_bytes,
        vram_bytes=inputs.vram_bytes,
        fits=room.short_bytes == 0 if inputs.is_cloud or not unknown else None,
        short_bytes=room.short_bytes,
        # A pinned model that does not fit blocks nothing; it becomes a warning.
        blocked=_blocked(inputs, room.short_bytes - sum_bytes(models.missing))
        or _twin_stays(inputs, models),
        # If it is loaded already, how long a load takes says nothing.
        expected={} if models.in_place else _expected(strategy, inputs.history.get(strategy, {})),
        already_active=models.already_active,
        stays=models.in_place,
        restore=next((i.name for i in models.old if i.role == "active"), NO_NAME),
        warmups=len(inputs.spec.warmups),
        published="" if inputs.cannot_publish else inputs.published.short,
        cannot_publish=inputs.cannot_publish,
        cloud=inputs.is_cloud,
        context=inputs.context,
        size_basis=models.target_size.basis if models.target_size.known else "",
        fits_context=fits_context(inputs, models, room),
        warnings=(*_warnings(inputs, models, room), *_slowed(inputs, models, strategy)),
        had_room=has_room(inputs, models),
        token=plan_token(inputs),
    )


def _warnings(inputs: PlanInputs, models: SortedModels, room: Room) -> tuple[str, ...]:
    """Return what people should know, although it stops nothing."""
    found, asked = [], inputs.spec.num_ctx
    if asked and 0 < inputs.context < asked:
        found.append(
            f"{asked:,} tokens of context are asked for, and {inputs.spec.name} gets "
            f"{inputs.context:,} here, which is the most that the server gives it."
        )
    leaving = evicted(inputs, models, room.keep)
    if leaving:
        found.append(
            f"Ollama keeps at most {inputs.max_loaded} models loaded here, so it will evict "
            f"{leaving} of those that stay: unpin a model, or raise OLLAMA_MAX_LOADED_MODELS."
        )
    return tuple(found)


def _slowed(inputs: PlanInputs, models: SortedModels, strategy: Strategy) -> tuple[str, ...]:
    """Return a warning if a load takes the processors that the old model answers on: on a server
    without a GPU, an overlap makes requests wait nearly as long as a swap (docs/performance.md)."""
    on_cpu = [r for r in inputs.resident if r.digest == inputs.active_digest and not r.size_vram]
    if strategy is not Strategy.OVERLAP or not on_cpu or models.loaded_target or inputs.is_cloud:
        return ()
    return (
        f"{on_cpu[0].name} runs on the CPU of {inputs.host}: the load beside it slows its answers "
        "until the switch has ended.",
    )


def _blocked(inputs: PlanInputs, short: int) -> str:
    """Return why this cannot work; empty if it can. A model that does not fit even alone blocks
    nothing, since the rest goes to the CPU, unless the profile says how much must be on the GPU."""
    name = inputs.spec.name
    if inputs.is_cloud and not inputs.allows_cloud:
        where = (inputs.target and inputs.target.remote_host) or "Ollama's servers"
        return (
            f"{name} is a cloud model: its prompts are sent to {where}, "
            f"which the settings of {inputs.host} do not allow."
        )
    if inputs.target is None:
        return f"{name} is not on {inputs.host}. Pull it there first: ollama pull {name}"
    if not inputs.target.answers:
        return no_answers(inputs.target)
    if short > 0 and inputs.spec.min_gpu_percent and inputs.spec.floor_fails:
        return (
            f"Does not fit: {gb(short)} GB short, and profile {inputs.spec.profile} "
            f"wants {inputs.spec.min_gpu_percent} % of it on the GPU."
        )
    # Clients that use the published name would load the old model again. If the model is active
    # already, nothing changes for them, and it must not be kept from being loaded anew.
    return inputs.cannot_publish if inputs.target.digest != inputs.active_digest else ""


def _twin_stays(inputs: PlanInputs, models: SortedModels) -> str:
    """Return that a model stays loaded which has the target's file; empty if none does. The server
    would list that one only, so the switch could not be verified (fact 21)."""
    twin = next((i for i in models.rest if i.digest in inputs.same_file), None)
    if twin is None:
        return ""
    how = "Unpin it" if twin.role == "pinned" else "Unload it"
    return (
        f"{inputs.spec.name} has the same file as {twin.short}, which is loaded on {inputs.host} "
        f"and stays: Ollama loads a file only once. {how} first."
    )


def no_answers(model: Installed) -> str:
    """Return why nobody can switch to a model that neither answers prompts nor embeds."""
    can = ", ".join(model.capabilities)
    return (
        f"{model.name} neither answers prompts nor embeds (Ollama lists: {can}), "
        "so a switch could not verify it."
    )


def _expected(strategy: Strategy, history: Mapping[str, Expected]) -> dict[str, Expected]:
    return {p.value: history[p.value] for p in PHASES[strategy] if p.value in history}
