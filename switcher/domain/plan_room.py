"""Room for a new model: which models leave, which stay, and whether the new one is loaded before or
after the old one leaves. Pure: no I/O, no Django."""

from __future__ import annotations

from dataclasses import dataclass, replace

from switcher.domain.memory import LEARNED, NO_MEMORY, Size, largest_context
from switcher.domain.observed import Resident
from switcher.domain.plan_inputs import Item, PlanInputs
from switcher.domain.states import Strategy
from switcher.domain.wording import gb

# A model has fallen to the CPU if its GPU share is this many percentage points below its usual one.
GPU_FALL = 5

# Ollama evicts others for a model that it predicts to take more than this share of what is free
# (server/sched.go), so an overlap may take no more.
ROOM_PERCENT = 80


@dataclass(frozen=True, slots=True)
class SortedModels:
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
        return self.load.bytes + sum_bytes(self.missing)

    @property
    def all_bytes(self) -> int:
        """Return the bytes that all of them take together."""
        return sum_bytes(self.old) + sum_bytes(self.rest) + self.need


def sort_models(inputs: PlanInputs) -> SortedModels:
    digest = inputs.target.digest if inputs.target else ""
    loaded = next((r for r in inputs.resident if digest and r.digest == digest), None)
    reused = inputs.is_cloud or (loaded is not None and not _reloads(loaded, inputs))
    size = Size(loaded.size, "as loaded now", LEARNED) if loaded and reused else inputs.target_size
    taken = loaded.bytes if loaded and reused else size.bytes
    others = [_item(r, inputs) for r in inputs.resident if not digest or r.digest != digest]
    fell_to_cpu = _why_loaded_anew(loaded, inputs)
    # Another profile of the same model is another switch: its keep-alive and options count.
    is_active = digest == inputs.active_digest and inputs.spec.same_as(inputs.active_spec)
    return SortedModels(
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


def choose_strategy(inputs: PlanInputs, models: SortedModels) -> tuple[Strategy, str]:
    """Return the strategy and its reason. If the requested model itself stays or has to leave,
    there is no choice."""
    if models.fell_to_cpu:
        return Strategy.SWAP, f"it leaves and is loaded anew: {models.fell_to_cpu}"
    if models.in_place:
        return Strategy.OVERLAP, f"{inputs.spec.name} is active already and stays loaded"
    twin = next((i for i in models.old if i.digest in inputs.same_file), None)
    if twin is not None:
        # Fact 21: beside it, the server would go on listing the old one.
        return Strategy.SWAP, f"it has the same file as {twin.short}, which Ollama loads only once"
    asked = inputs.asked if inputs.asked is not Strategy.AUTO else inputs.host_strategy
    too_many = _too_many(inputs, models)
    if asked is not Strategy.AUTO:
        by = "asked for" if inputs.asked is not Strategy.AUTO else f"set for {inputs.host}"
        if asked is Strategy.OVERLAP and too_many:
            return Strategy.SWAP, f"overlap was {by}, but {too_many}"
        return asked, f"{asked.value} was {by}"
    return (Strategy.SWAP, too_many) if too_many else _strategy_by_room(inputs, models)


def _too_many(inputs: PlanInputs, models: SortedModels) -> str:
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


def sum_bytes(items: list[Item]) -> int:
    return sum(i.bytes for i in items)


def _reloads(loaded: Resident, inputs: PlanInputs) -> bool:
    """Return whether loading it with these options makes the server reload it (fact 12). A server
    gives no more context than the model was trained for, and does not reload for that."""
    asked = inputs.spec.num_ctx
    return asked is not None and loaded.context_length not in (0, asked, inputs.context)


def _free(vram: int, models: SortedModels) -> int:
    return max(0, vram - sum_bytes(models.old) - sum_bytes(models.rest))


def has_room(inputs: PlanInputs, models: SortedModels) -> bool:
    """Return whether Ollama has no reason to evict a model for want of memory in an overlap."""
    if inputs.vram_bytes is None or not models.target_size.known:
        return False
    return models.need * 100 <= _free(inputs.vram_bytes, models) * ROOM_PERCENT


def _strategy_by_room(inputs: PlanInputs, models: SortedModels) -> tuple[Strategy, str]:
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
    need, pinned = models.need, sum_bytes(models.missing)
    what = f"{gb(need)} GB, {gb(pinned)} of them pinned models," if pinned else f"{gb(need)} GB"
    numbers = f"beside what is loaded: {gb(free)} GB are free"
    if has_room(inputs, models):
        return Strategy.OVERLAP, f"{what} fit {numbers}"
    if need <= free:
        return Strategy.SWAP, (
            f"{what} are too tight {numbers}, and Ollama evicts by itself above "
            f"{ROOM_PERCENT} % of that"
        )
    return Strategy.SWAP, f"{what} do not fit {numbers}"


@dataclass(frozen=True, slots=True)
class Room:
    """Which models leave, which are kept, and how many bytes are missing even then."""

    unload: list[Item]
    keep: list[Item]
    short_bytes: int


def make_room(inputs: PlanInputs, models: SortedModels) -> Room:
    """Unload the old models; foreign ones too, largest first, but only as far as needed. Pinned
    models are kept."""
    vram = inputs.vram_bytes
    if models.already_active:
        return Room([], models.rest, 0)
    unload = list(models.old)
    if models.loaded_target and models.fell_to_cpu:
        anew = models.loaded_target
        why = models.fell_to_cpu
        item = Item(anew.name, anew.digest, anew.bytes, "active", why, anew.size)
        unload.insert(0, item)
    keep = sorted(models.rest, key=lambda i: (i.role == "foreign", i.bytes))

    def is_full() -> bool:
        too_big = vram is not None and sum_bytes(keep) + models.need > vram
        return too_big or evicted(inputs, models, keep) > 0

    while keep and keep[-1].role == "foreign" and is_full():
        unload.append(replace(keep.pop(), why="to make room"))
    short = 0 if vram is None else max(0, sum_bytes(keep) + models.need - vram)
    return Room(unload, keep, short)


def evicted(inputs: PlanInputs, models: SortedModels, keep: list[Item]) -> int:
    """Return how many models the server would evict after the switch because of its limit."""
    if inputs.max_loaded is None or inputs.is_cloud:
        return 0
    return max(0, len(keep) + len(models.missing) + 1 - inputs.max_loaded)


def fits_context(inputs: PlanInputs, models: SortedModels, room: Room) -> int:
    """Return the largest context with which a model that does not fit would."""
    if inputs.vram_bytes is None or not room.short_bytes or inputs.target is None:
        return 0
    free = inputs.vram_bytes - sum_bytes(room.keep) - sum_bytes(models.missing)
    return largest_context(
        free,
        inputs.context,
        inputs.target.size,
        inputs.facts,
        inputs.seen,
        inputs.parallel_requests,
    )
