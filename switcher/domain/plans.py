"""The plan of a switch: what leaves, what comes, what fits, how long. Pure: no I/O, no Django.

Numbers that are estimates carry the words that say where they come from; what is not known is
None and never guessed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from switcher.domain.model_names import NO_NAME, ModelName
from switcher.domain.observed import Installed, Resident
from switcher.domain.specs import Spec
from switcher.domain.states import PHASES, State, Strategy

# A runner takes more than its file: context, buffers. Measured on models of 0.4 to 2.5 GB:
# 1.39 to 1.18. Used only where this digest was never seen loaded, and said to be an estimate.
FILE_TO_RESIDENT = 1.2

# Points of a hundred by which less on the GPU than usual is a fall.
GPU_FALL = 5

# Ollama itself evicts for a further model that it predicts to take more than this share of what is
# free (server/sched.go): beside others only so much counts as room.
ROOM_PERCENT = 80


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes that a model is expected to take when loaded, and how that is known."""

    bytes: int
    source: str

    @property
    def known(self) -> bool:
        return bool(self.bytes)


@dataclass(frozen=True, slots=True)
class Expected:
    """Seconds a phase usually takes, and from how many of which runs."""

    seconds: float
    source: str


@dataclass(frozen=True, slots=True)
class Item:
    """One model in a plan. `role` is active, pinned, former (loaded by a switch, and not to be
    loaded any more), foreign or new."""

    name: ModelName
    digest: str
    bytes: int
    role: str
    why: str = ""

    @property
    def short(self) -> str:
        return self.name.short

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"name": self.name.full}


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """All that a plan is made from."""

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
    history: Mapping[Strategy, Mapping[str, Expected]]  # seconds by phase, for each order
    missing: tuple[Item, ...] = ()  # pinned models on the disk that are not loaded
    ours: frozenset[str] = frozenset()  # digests that switches loaded here
    usual_gpu_percent: int | None = None  # of the target, when it was last activated here
    published: ModelName = NO_NAME  # the name on the server that is to mean the active model
    cannot_publish: str = ""  # why that name cannot be pointed at the target


@dataclass(frozen=True, slots=True)
class Plan:
    """What a switch will do. `token` names the state of the host that it was made for."""

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
    stays: bool  # the model is active already and stays loaded, whatever else comes and goes
    restore: ModelName  # the old active model, which comes back if the switch fails
    warmups: int
    published: str  # the name that is pointed at the model before it becomes active
    cannot_publish: str  # why that which is set is not; a bar, unless the model is active already
    token: str

    @property
    def expected_s(self) -> float | None:
        """Seconds for all of it, or None where no phase of it was ever measured."""
        load = self.expected.get(State.LOADING)
        if load is None:
            return None
        return sum(e.seconds for e in self.expected.values())

    @property
    def without_model_s(self) -> float | None:
        """Seconds in which the host has no model to answer with: only a swap has any."""
        if self.strategy is Strategy.OVERLAP or self.already_active:
            return 0.0
        return self.expected_s

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
        }


def plan_token(s: PlanInputs) -> str:
    """A short name for what a plan depends on: it changes when the plan may no longer hold.
    Expiry is none of it, nor what is only expected."""
    facts = (
        sorted((r.digest, r.size, r.size_vram, r.context_length) for r in s.resident),
        s.active_digest,
        s.target.digest if s.target else "",
        s.vram_bytes,
        sorted([*s.pinned, *(i.digest for i in s.missing)]),
        (s.asked.value, s.host_strategy.value),
        s.spec.to_json(),
    )
    text = json.dumps(facts, sort_keys=True)
    return "p-" + hashlib.sha256(text.encode()).hexdigest()[:12]


def make_plan(s: PlanInputs) -> Plan:
    """Decide what leaves, what stays and in which order, and say why in numbers."""
    digest = s.target.digest if s.target else ""
    here = next((r for r in s.resident if digest and r.digest == digest), None)
    size = (
        Size(here.size, "as loaded now") if here and not _reloads(here, s.spec) else s.target_size
    )
    load = Item(s.spec.name, digest, size.bytes, "new", size.source)
    others = [_item(r, s) for r in s.resident if not digest or r.digest != digest]
    old = [i for i in others if i.role in ("active", "former")]
    stay = [i for i in others if i.role not in ("active", "former")]
    reload = [i for i in s.missing if i.digest != digest]
    fallen = _fallen(here, s)

    # Another profile of the same model is a switch of its own: its keep-alive and options count.
    in_place = (
        here is not None
        and digest == s.active_digest
        and s.spec == s.active_spec
        and not _reloads(here, s.spec)
        and not fallen
    )
    already = in_place and not reload and not old
    before = sum(_bytes(r) for r in s.resident)
    need = size.bytes + _sum(reload)
    strategy, reason = _order(s, size, others, reload, fallen=fallen, in_place=in_place)
    leave, keep, short = _make_room(s.vram_bytes, need, old, stay)
    if already:  # then nothing leaves, and nothing comes
        leave, keep, short = [], others, 0
    elif here is not None and fallen:
        leave = [Item(here.name, digest, _bytes(here), "active", fallen), *leave]
    after = sum(i.bytes for i in keep) + need
    peak = max(before, after) if strategy is Strategy.SWAP else _sum(others) + need
    fits = None if s.vram_bytes is None or not size.known else short == 0
    return Plan(
        host=s.host,
        model=s.spec.name,
        profile=s.spec.profile,
        digest=digest,
        strategy=strategy,
        strategy_reason=reason,
        unload=tuple(leave),
        load=load,
        keep=tuple(keep),
        reload=tuple(reload),
        bytes_before=before,
        bytes_after=after,
        bytes_peak=peak,
        vram_bytes=s.vram_bytes,
        fits=fits,
        short_bytes=short,
        # That a pinned model does not fit is a warning later, and bars nothing.
        blocked=_blocked(s, short - _sum(reload)),
        # How long loading it takes tells nothing where it is loaded.
        expected={} if in_place else _expected(strategy, s.history.get(strategy, {})),
        already_active=already,
        stays=in_place,
        restore=next((i.name for i in old if i.role == "active"), NO_NAME),
        warmups=len(s.spec.warmups),
        published="" if s.cannot_publish else s.published.short,
        cannot_publish=s.cannot_publish,
        token=plan_token(s),
    )


def _item(r: Resident, s: PlanInputs) -> Item:
    if s.active_digest and r.digest == s.active_digest:
        role = "active"
    elif r.digest in s.pinned:
        role = "pinned"
    elif r.digest in s.ours:
        return Item(r.name, r.digest, _bytes(r), "former", "not to be loaded here any more")
    else:
        role = "foreign"
    return Item(r.name, r.digest, _bytes(r), role)


def _fallen(here: Resident | None, s: PlanInputs) -> str:
    """Why the active model has to be loaded anew though it is there: it fell to the CPU. Empty if
    it did not. A load finds it loaded and changes nothing, so it has to leave first."""
    if here is None or here.digest != s.active_digest:
        return ""
    return gpu_fall(here.gpu_percent, s.spec.min_gpu_percent, s.usual_gpu_percent)


def gpu_fall(share: int, floor: int | None, usual: int | None) -> str:
    """In words, that less of a model is on the GPU than when it was activated, or than its profile
    wants; empty if that is not so. One that was activated below the floor has not fallen."""
    now = f"{share} % of it is on the GPU"
    if usual is not None and share < usual - GPU_FALL:
        return f"{now}, it was {usual} % when it was activated"
    if floor and share < floor and (usual is None or usual >= floor):
        return f"{now}, the profile wants {floor} %"
    return ""


def _order(
    s: PlanInputs,
    size: Size,
    others: list[Item],
    reload: list[Item],
    *,
    fallen: str,
    in_place: bool,
) -> tuple[Strategy, str]:
    """The strategy and its reason. Where the model itself stays or has to leave, there is no
    choice."""
    if fallen:
        return Strategy.SWAP, f"it leaves and is loaded anew: {fallen}"
    if in_place:
        return Strategy.OVERLAP, f"{s.spec.name} is active already and stays loaded"
    return _choose(s, size, _sum(others), _sum(reload))


def _bytes(r: Resident) -> int:
    """What it takes where it matters: VRAM, or memory on a host without a GPU (fact 18)."""
    return r.size_vram or r.size


def _sum(items: list[Item]) -> int:
    return sum(i.bytes for i in items)


def _reloads(here: Resident, spec: Spec) -> bool:
    """Whether loading it with these options makes the server load it anew (fact 12)."""
    return spec.num_ctx is not None and here.context_length not in (0, spec.num_ctx)


def _choose(s: PlanInputs, size: Size, others: int, reload: int) -> tuple[Strategy, str]:
    asked = s.asked if s.asked is not Strategy.AUTO else s.host_strategy
    if asked is not Strategy.AUTO:
        by = "asked for" if s.asked is not Strategy.AUTO else f"set for {s.host}"
        return asked, f"{asked.value} was {by}"
    if not s.resident:
        return Strategy.OVERLAP, "nothing is loaded, so nothing has to leave first"
    if s.vram_bytes is None:
        return Strategy.SWAP, "the host's VRAM is not set, so the old model leaves first"
    if not size.known:
        return Strategy.SWAP, "the model's size is not known, so the old model leaves first"
    free = max(0, s.vram_bytes - others)
    need = size.bytes + reload
    what = f"{gb(need)} GB, {gb(reload)} of them pinned models," if reload else f"{gb(need)} GB"
    numbers = f"beside what is loaded: {gb(free)} GB are free"
    if need * 100 <= free * ROOM_PERCENT:
        return Strategy.OVERLAP, f"{what} fit {numbers}"
    if need <= free:
        return Strategy.SWAP, (
            f"{what} are too tight {numbers}, and Ollama evicts by itself above "
            f"{ROOM_PERCENT} % of that"
        )
    return Strategy.SWAP, f"{what} do not fit {numbers}"


def _make_room(
    vram: int | None, need: int, old: list[Item], stay: list[Item]
) -> tuple[list[Item], list[Item], int]:
    """The old active model leaves; foreign ones too, largest first, only as far as needed.

    Pinned models are kept: whoever wants their room has to say so.
    """
    leave = list(old)
    keep = sorted(stay, key=lambda i: (i.role == "foreign", i.bytes))
    if vram is None:
        return leave, keep, 0
    while keep and keep[-1].role == "foreign" and _sum(keep) + need > vram:
        leave.append(replace(keep.pop(), why="to make room"))
    return leave, keep, max(0, _sum(keep) + need - vram)


def _blocked(s: PlanInputs, short: int) -> str:
    """Why this cannot work, or nothing. Too large alone is no bar: the rest goes to the CPU,
    unless the profile says how much of it has to lie on the GPU."""
    if s.target is None:
        name = s.spec.name
        return f"{name} is not on {s.host}. Pull it there first: ollama pull {name}"
    if short > 0 and s.spec.min_gpu_percent and s.spec.floor_fails:
        return (
            f"Does not fit: {gb(short)} GB short, and profile {s.spec.profile} "
            f"wants {s.spec.min_gpu_percent} % of it on the GPU."
        )
    # Who follows the name would load the old model again. Of what is active already nothing changes
    # for them, and a stranger under the name is not to keep it from being loaded anew.
    return s.cannot_publish if s.target.digest != s.active_digest else ""


def _expected(strategy: Strategy, history: Mapping[str, Expected]) -> dict[str, Expected]:
    return {p.value: history[p.value] for p in PHASES[strategy] if p.value in history}


def gb(count: int) -> str:
    """Decimal gigabytes, one digit: 5.1."""
    return f"{count / 1e9:.1f}"
