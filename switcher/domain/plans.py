"""The plan of a switch: what is unloaded and loaded, whether it fits, and how long it takes. Pure:
no I/O, no Django.

Each estimate names its source. What is not known is None, never guessed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from switcher.domain.memory import LEARNED, NO_MEMORY, Loaded, ModelFacts, Size, largest_context
from switcher.domain.model_names import NO_NAME, ModelName
from switcher.domain.observed import Installed, Resident
from switcher.domain.specs import Spec
from switcher.domain.states import PHASES, State, Strategy

# A model has fallen to the CPU if its GPU share is this many percentage points below its usual one.
GPU_FALL = 5

# Ollama evicts others for a model that it predicts to take more than this share of what is free
# (server/sched.go), so an overlap may take no more.
ROOM_PERCENT = 80


@dataclass(frozen=True, slots=True)
class Expected:
    """The seconds that a phase is expected to take, and where that number comes from."""

    seconds: float
    source: str


@dataclass(frozen=True, slots=True)
class Item:
    """One model in a plan. `role` is active, pinned, former (loaded by a switch, and no longer
    wanted), foreign or new. `bytes` is what it takes of the VRAM, or of the memory on a host
    without a GPU; `total` is all that it takes, on the GPU and beside it."""

    name: ModelName
    digest: str
    bytes: int
    role: str
    why: str = ""
    total: int = 0

    @property
    def short(self) -> str:
        return self.name.short

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"name": self.name.full}


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """Everything that a plan depends on."""

    host: str
    vram_bytes: int | None
    resident: tuple[Resident, ...]
    active_digest: str
    active_spec: Spec | None
    pinned: frozenset[str]  # digests
    target: Installed | None
    spec: Spec
    target_size: Size
    asked: Strategy
    host_strategy: Strategy
    history: Mapping[Strategy, Mapping[str, Expected]]  # seconds by phase
    missing: tuple[Item, ...] = ()  # installed pinned models that are not loaded
    ours: frozenset[str] = frozenset()  # digests that switches loaded here
    usual_gpu_percent: int | None = None  # of the target, when it was last activated here
    published: ModelName = NO_NAME  # the name that should mean the active model
    cannot_publish: str = ""  # why that name cannot be pointed at the target
    allows_cloud: bool = False  # whether prompts may leave the machine
    context: int = 0  # tokens that the target is expected to get; 0 if unknown
    facts: ModelFacts | None = None  # of the target
    seen: tuple[Loaded, ...] = ()  # loads of the target here
    max_loaded: int | None = None  # models that the server keeps loaded at once

    @property
    def is_cloud(self) -> bool:
        """Return whether the target is a cloud model, which is never loaded here (fact 28)."""
        return self.spec.name.is_cloud or (self.target is not None and self.target.is_cloud)


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
    )
    text = json.dumps(facts, sort_keys=True)
    return "p-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def make_plan(inputs: PlanInputs) -> Plan:
    """Decide what is unloaded, what stays, and in which order, and give the reason in numbers."""
    models = _sort_models(inputs)
    strategy, reason = _choose_strategy(inputs, models)
    room = _make_room(inputs, models)
    before = sum(r.bytes for r in inputs.resident)
    after = _sum(room.keep) + models.need
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
        blocked=_blocked(inputs, room.short_bytes - _sum(models.missing)),
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
        fits_context=_fits_context(inputs, models, room),
        warnings=_warnings(inputs, models, room),
        had_room=_has_room(inputs, models),
        token=plan_token(inputs),
    )


@dataclass(frozen=True, slots=True)
class _Models:
    """The models of a host, sorted by what a switch does with them."""

    loaded_target: Resident | None  # the requested model, if it is resident already
    load: Item
    target_size: Size
    old: list[Item]  # active and former models: they are unloaded
    rest: list[Item]  # pinned and foreign models: they are kept, if there is room
    missing: list[Item]  # pinned models that are loaded as well
    fell_to_cpu: str  # why the active model is unloaded and loaded anew; empty if it is not
    in_place: bool  # the requested model is active already and stays loaded

    @property
    def already_active(self) -> bool:
        """Return whether nothing has to be unloaded or loaded."""
        return self.in_place and not self.missing and not self.old

    @property
    def need(self) -> int:
        """Return the bytes of the requested model and the missing pinned ones."""
        return self.load.bytes + _sum(self.missing)

    @property
    def all_bytes(self) -> int:
        """Return the bytes that all of them take together."""
        return _sum(self.old) + _sum(self.rest) + self.need


def _sort_models(inputs: PlanInputs) -> _Models:
    digest = inputs.target.digest if inputs.target else ""
    loaded = next((r for r in inputs.resident if digest and r.digest == digest), None)
    reused = inputs.is_cloud or (loaded is not None and not _reloads(loaded, inputs))
    size = Size(loaded.size, "as loaded now", LEARNED) if loaded and reused else inputs.target_size
    taken = loaded.bytes if loaded and reused else size.bytes
    others = [_item(r, inputs) for r in inputs.resident if not digest or r.digest != digest]
    fell_to_cpu = _why_loaded_anew(loaded, inputs)
    # Another profile of the same model is another switch: its keep-alive and options count.
    is_active = digest == inputs.active_digest and inputs.spec.same_as(inputs.active_spec)
    return _Models(
        loaded_target=loaded,
        load=Item(inputs.spec.name, digest, taken, "new", size.source, size.bytes),
        target_size=size,
        old=[i for i in others if i.role in ("active", "former")],
        rest=[i for i in others if i.role not in ("active", "former")],
        missing=[i for i in inputs.missing if i.digest != digest],
        fell_to_cpu=fell_to_cpu,
        in_place=reused and is_active and not fell_to_cpu,
    )


def _item(r: Resident, inputs: PlanInputs) -> Item:
    if inputs.active_digest and r.digest == inputs.active_digest:
        role = "active"
    elif r.digest in inputs.pinned:
        role = "pinned"
    elif r.digest in inputs.ours:
        why = "not to be loaded here any more"
        return Item(r.name, r.digest, r.bytes, "former", why, r.size)
    else:
        role = "foreign"
    return Item(r.name, r.digest, r.bytes, role, total=r.size)


def _why_loaded_anew(loaded: Resident | None, inputs: PlanInputs) -> str:
    """Return why the active model has to be loaded anew although it is resident: it fell to the
    CPU. Empty if it did not. It has to leave first, since a load would find it loaded."""
    if loaded is None or loaded.digest != inputs.active_digest:
        return ""
    return gpu_fall(loaded.gpu_percent, inputs.spec.min_gpu_percent, inputs.usual_gpu_percent)


def gpu_fall(share: int, floor: int | None, usual: int | None) -> str:
    """Say that less of a model is on the GPU than when it was activated, or than its profile wants.
    Empty if neither is so. A model that was below the floor when it was activated has not fallen.
    """
    now = f"{share} % of it is on the GPU"
    if usual is not None and share < usual - GPU_FALL:
        return f"{now}, it was {usual} % when it was activated"
    if floor and share < floor and (usual is None or usual >= floor):
        return f"{now}, the profile wants {floor} %"
    return ""


def _choose_strategy(inputs: PlanInputs, models: _Models) -> tuple[Strategy, str]:
    """Return the strategy and its reason. If the requested model itself stays or has to leave,
    there is no choice."""
    if models.fell_to_cpu:
        return Strategy.SWAP, f"it leaves and is loaded anew: {models.fell_to_cpu}"
    if models.in_place:
        return Strategy.OVERLAP, f"{inputs.spec.name} is active already and stays loaded"
    asked = inputs.asked if inputs.asked is not Strategy.AUTO else inputs.host_strategy
    too_many = _too_many(inputs, models)
    if asked is not Strategy.AUTO:
        by = "asked for" if inputs.asked is not Strategy.AUTO else f"set for {inputs.host}"
        if asked is Strategy.OVERLAP and too_many:
            return Strategy.SWAP, f"overlap was {by}, but {too_many}"
        return asked, f"{asked.value} was {by}"
    return (Strategy.SWAP, too_many) if too_many else _strategy_by_room(inputs, models)


def _too_many(inputs: PlanInputs, models: _Models) -> str:
    """Return that the server would evict a model in an overlap, since it keeps only so many loaded
    at once (fact 14); empty if it would not, or if its limit is not known."""
    if inputs.max_loaded is None or inputs.is_cloud or not (models.old or models.rest):
        return ""
    count = len(models.old) + len(models.rest) + len(models.missing) + 1
    if count <= inputs.max_loaded:
        return ""
    return (
        f"Ollama keeps at most {inputs.max_loaded} loaded here, and an overlap would make it "
        f"{count}, so that Ollama would evict one by itself"
    )


def _sum(items: list[Item]) -> int:
    return sum(i.bytes for i in items)


def _reloads(loaded: Resident, inputs: PlanInputs) -> bool:
    """Return whether loading it with these options makes the server reload it (fact 12). A server
    gives no more context than the model was trained for, and does not reload for that."""
    asked = inputs.spec.num_ctx
    return asked is not None and loaded.context_length not in (0, asked, inputs.context)


def _free(vram: int, models: _Models) -> int:
    return max(0, vram - _sum(models.old) - _sum(models.rest))


def _has_room(inputs: PlanInputs, models: _Models) -> bool:
    """Return whether Ollama has no reason to evict a model for want of memory in an overlap."""
    if inputs.vram_bytes is None or not models.target_size.known:
        return False
    return models.need * 100 <= _free(inputs.vram_bytes, models) * ROOM_PERCENT


def _strategy_by_room(inputs: PlanInputs, models: _Models) -> tuple[Strategy, str]:
    """Return overlap if the new model fits beside what is loaded, else swap."""
    if inputs.is_cloud:
        return Strategy.OVERLAP, NO_MEMORY.source
    if not inputs.resident:
        return Strategy.OVERLAP, "nothing is loaded, so nothing has to leave first"
    if inputs.vram_bytes is None:
        return Strategy.SWAP, "the host's VRAM is not set, so the old model leaves first"
    if not models.target_size.known:
        return Strategy.SWAP, "the model's size is not known, so the old model leaves first"
    free = _free(inputs.vram_bytes, models)
    need, pinned = models.need, _sum(models.missing)
    what = f"{gb(need)} GB, {gb(pinned)} of them pinned models," if pinned else f"{gb(need)} GB"
    numbers = f"beside what is loaded: {gb(free)} GB are free"
    if _has_room(inputs, models):
        return Strategy.OVERLAP, f"{what} fit {numbers}"
    if need <= free:
        return Strategy.SWAP, (
            f"{what} are too tight {numbers}, and Ollama evicts by itself above "
            f"{ROOM_PERCENT} % of that"
        )
    return Strategy.SWAP, f"{what} do not fit {numbers}"


@dataclass(frozen=True, slots=True)
class _Room:
    """Which models leave, which are kept, and how many bytes are missing even then."""

    unload: list[Item]
    keep: list[Item]
    short_bytes: int


def _make_room(inputs: PlanInputs, models: _Models) -> _Room:
    """Unload the old models; foreign ones too, largest first, but only as far as needed. Pinned
    models are kept."""
    vram = inputs.vram_bytes
    if models.already_active:
        return _Room([], models.rest, 0)
    unload = list(models.old)
    if models.loaded_target and models.fell_to_cpu:
        anew = models.loaded_target
        why = models.fell_to_cpu
        item = Item(anew.name, anew.digest, anew.bytes, "active", why, anew.size)
        unload.insert(0, item)
    keep = sorted(models.rest, key=lambda i: (i.role == "foreign", i.bytes))

    def is_full() -> bool:
        too_big = vram is not None and _sum(keep) + models.need > vram
        return too_big or _evicted(inputs, models, keep) > 0

    while keep and keep[-1].role == "foreign" and is_full():
        unload.append(replace(keep.pop(), why="to make room"))
    short = 0 if vram is None else max(0, _sum(keep) + models.need - vram)
    return _Room(unload, keep, short)


def _evicted(inputs: PlanInputs, models: _Models, keep: list[Item]) -> int:
    """Return how many models the server would evict after the switch because of its limit."""
    if inputs.max_loaded is None or inputs.is_cloud:
        return 0
    return max(0, len(keep) + len(models.missing) + 1 - inputs.max_loaded)


def _fits_context(inputs: PlanInputs, models: _Models, room: _Room) -> int:
    """Return the largest context with which a model that does not fit would."""
    if inputs.vram_bytes is None or not room.short_bytes or inputs.target is None:
        return 0
    free = inputs.vram_bytes - _sum(room.keep) - _sum(models.missing)
    return largest_context(free, inputs.context, inputs.target.size, inputs.facts, inputs.seen)


def _warnings(inputs: PlanInputs, models: _Models, room: _Room) -> tuple[str, ...]:
    """Return what people should know, although it stops nothing."""
    found, asked = [], inputs.spec.num_ctx
    if asked and 0 < inputs.context < asked:
        found.append(
            f"{asked:,} tokens of context are asked for, and {inputs.spec.name} gets "
            f"{inputs.context:,} here, which is the most that the server gives it."
        )
    evicted = _evicted(inputs, models, room.keep)
    if evicted:
        found.append(
            f"Ollama keeps at most {inputs.max_loaded} models loaded here, so it will evict "
            f"{evicted} of those that stay: unpin a model, or raise OLLAMA_MAX_LOADED_MODELS."
        )
    return tuple(found)


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


def no_answers(model: Installed) -> str:
    """Return why nobody can switch to a model that neither answers prompts nor embeds."""
    can = ", ".join(model.capabilities)
    return (
        f"{model.name} neither answers prompts nor embeds (Ollama lists: {can}), "
        "so a switch could not verify it."
    )


def _expected(strategy: Strategy, history: Mapping[str, Expected]) -> dict[str, Expected]:
    return {p.value: history[p.value] for p in PHASES[strategy] if p.value in history}


def gb(count: int) -> str:
    """Return decimal gigabytes with one digit, such as 5.1."""
    return f"{count / 1e9:.1f}"
