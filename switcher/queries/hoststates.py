"""What is true of one host, put into a state, a word, a bar and notes. Reads no rows itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from switcher.domain.drift import GHOST_AFTER_S, GONE, OFFLINE_AFTER, Kind, Recorded
from switcher.domain.model_copies import what_remains, with_model_names, without, without_copies
from switcher.domain.observed import Installed, Observation, Resident, find_installed, short_name
from switcher.domain.states import State
from switcher.domain.wording import NBSP
from switcher.queries.bars import Bar, Part, bar, bytes_of
from switcher.queries.switches import SwitchView

STALE_AFTER_S = 15.0

Pins = frozenset[str]


@dataclass(frozen=True, slots=True)
class Known:
    """The newest that is known of a host: stored, or read since by this process."""

    at: datetime | None
    answered_at: datetime | None
    resident: tuple[Resident, ...] = ()
    installed: tuple[Installed, ...] = ()
    version: str = ""
    latency_ms: int = 0
    error: str = ""
    failures: int = 0
    reached: frozenset[str] = frozenset()  # digests that some name on the disk means


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence under a host's row. `names` are set in mono; `href` leads to more."""

    state: str  # warning, failed, offline
    text: str
    names: tuple[str, ...] = ()
    href: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class ResidentRow:
    """One line of `/api/ps`. `kind` is as in Part; `slow`: part of it runs on the CPU."""

    name: str
    digest: str
    kind: str
    size: int
    size_vram: int
    gpu_percent: int
    context_length: int
    expires_at: datetime | None
    stays: bool
    overdue: bool
    slow: bool
    ghost: str = ""  # why it is one: overdue, replaced, deleted
    reached: bool = True  # by some name: then it can be freed
    remains: str = ""  # what there is to wait for where it cannot

    @property
    def bytes(self) -> int:
        """What it takes where it matters: VRAM, or memory on a host without a GPU (fact 18)."""
        return self.size_vram or self.size


@dataclass(frozen=True, slots=True)
class HostRow:
    """A host as the board shows it. `model` is what is really loaded, never what should be."""

    id: int
    name: str
    simulated: bool
    is_default: bool
    state: str  # active, idle, busy, warning, failed, offline, stale
    word: str
    model: str
    facts: tuple[str, ...]
    bar: Bar
    in_memory: bool  # nothing lies in VRAM: the host computes on its CPU
    last_known: bool
    read_at: datetime | None  # when it last answered
    unloads_at: datetime | None
    stays: bool
    switch: SwitchView | None
    last_model: str
    degraded: bool
    notes: tuple[Note, ...]
    residents: tuple[ResidentRow, ...]
    on_disk: tuple[str, ...]  # models that answer prompts, by the names people write
    version: str
    latency_ms: int
    holds: str  # changes when what a plan was made from may no longer hold
    now: datetime

    @property
    def slug(self) -> str:
        return self.name

    @property
    def ghosts(self) -> tuple[ResidentRow, ...]:
        return tuple(r for r in self.residents if r.kind == "ghost")

    @property
    def ghosts_mark(self) -> str:
        """Changes when what is said of ghosts does."""
        facts = [f"{g.digest[:12]}-{int(g.reached)}-{g.remains}" for g in self.ghosts]
        return hashlib.sha256("|".join(facts).encode()).hexdigest()[:12]

    @property
    def needs_a_look(self) -> bool:
        return self.state in {"warning", "failed", "offline", "stale"}

    @property
    def answers(self) -> bool:
        return self.state != "offline" and self.read_at is not None


def known_of(host: Any, fresh: Mapping[int, Observation] | None) -> Known:
    """The stored reading or this process's own, whichever is newer."""
    stored = _stored(getattr(host, "reading", None))
    seen = (fresh or {}).get(host.pk)
    if seen is None or (stored.at is not None and stored.at >= seen.at):
        return stored
    return Known(
        at=seen.at,
        answered_at=seen.at if seen.answered else stored.answered_at,
        resident=seen.resident if seen.answered or seen.resident else stored.resident,
        installed=seen.installed if seen.answered or seen.installed else stored.installed,
        version=seen.version or stored.version,
        latency_ms=seen.latency_ms,
        error=seen.error,
        # Counted where it is stored, which the first three failures are at once.
        failures=0 if seen.answered else max(1, stored.failures),
    )


def as_models(host: Any, known: Known, tags: Mapping[str, str]) -> Known:
    """Without the copies that are held, and the published name: they are no models to switch to.
    `tags` has what each copy is one of."""
    ours = {host.published_as: host.published_tag} if host.published_as else {}
    return replace(
        known,
        resident=with_model_names(known.resident, {**tags, **ours}),
        installed=without(without_copies(known.installed), host.published_as),
        reached=frozenset(i.digest for i in known.installed),
    )


def _stored(reading: Any) -> Known:
    if reading is None:
        return Known(None, None)
    return Known(
        at=reading.at,
        answered_at=reading.answered_at,
        resident=tuple(Resident.from_json(r) for r in reading.resident),
        installed=tuple(Installed.from_json(i) for i in reading.installed),
        version=reading.version,
        latency_ms=reading.latency_ms,
        error=reading.error,
        failures=reading.failures,
    )


def row_of(
    host: Any,
    known: Known,
    running: SwitchView | None,
    ended: SwitchView | None,
    pins: Pins | None,
    now: datetime,
    drifts: tuple[Recorded, ...] = (),
) -> HostRow:
    """Put together what is known of a host."""
    residents = resident_rows(host, known, pins or frozenset(), now, busy=running is not None)
    main = _main(residents)
    warnings = () if running else _warnings(host, known, pins or frozenset(), drifts)
    state, word = _state(known, running, ended, warnings, residents, host, now)
    lost = state in {"offline", "stale"}
    return HostRow(
        id=host.pk,
        name=host.name,
        simulated=host.simulated,
        is_default=host.is_default,
        state=state,
        word=word,
        model=main.name if main else "",
        facts=_facts(residents, main),
        bar=_bar(host, residents, running, lost),
        in_memory=bool(residents) and not any(r.size_vram for r in residents),
        last_known=lost,
        read_at=known.answered_at,
        unloads_at=main.expires_at if main and not main.stays else None,
        stays=bool(main and main.stays),
        switch=running,
        last_model=short_name(host.active_tag),
        degraded=bool(host.degraded),
        notes=_notes(host, known, ended if running is None else None, warnings, state),
        residents=residents,
        on_disk=tuple(short_name(i.name) for i in known.installed if not i.embeds_only),
        version=known.version,
        latency_ms=known.latency_ms,
        holds=_holds(host, known),
        now=now,
    )


def resident_rows(
    host: Any, known: Known, pins: Pins, now: datetime, busy: bool = False
) -> tuple[ResidentRow, ...]:
    """What is resident: the active model first, then what is pinned, then the others."""
    rows = [_resident(host, r, known, pins, now, busy) for r in known.resident]
    order = {"active": 0, "pin": 1, "other": 2, "ghost": 3}
    return tuple(sorted(rows, key=lambda r: (order[r.kind], -r.size)))


def _resident(
    host: Any, r: Resident, known: Known, pins: Pins, now: datetime, busy: bool
) -> ResidentRow:
    late = r.expires_at is not None and now - r.expires_at > timedelta(seconds=GHOST_AFTER_S)
    # Last known rows say nothing of now; and a switch lets models leave at its own pace (fact 2).
    overdue = late and not busy and not known.error
    ghost = ""
    if host.active_digest and r.digest == host.active_digest:
        kind = "active"
    elif ghost := "overdue" if overdue else _lost_its_name(r, known):
        kind = "ghost"
    else:
        kind = "pin" if r.name in pins else "other"
    return ResidentRow(
        name=short_name(r.name),
        digest=r.digest,
        kind=kind,
        size=r.size,
        size_vram=r.size_vram,
        gpu_percent=r.gpu_percent,
        context_length=r.context_length,
        expires_at=r.expires_at,
        stays=r.stays,
        overdue=overdue,
        slow=r.gpu_percent < 100 and bool(r.size_vram or host.vram_bytes),
        ghost=ghost if kind == "ghost" else "",
        reached=r.digest in known.reached,
        remains="" if r.digest in known.reached else what_remains(r, host.name, now),
    )


def _lost_its_name(r: Resident, known: Known) -> str:
    """Whether its name means other content by now, or was deleted (facts 23, 24)."""
    here = find_installed(known.installed, r.name)
    if here is None:
        return "deleted"
    return "" if here.digest == r.digest else "replaced"


def _main(residents: tuple[ResidentRow, ...]) -> ResidentRow | None:
    """The active model if it is loaded, else the largest that is not there on purpose."""
    for kind in ("active", "other", "ghost"):
        row = next((r for r in residents if r.kind == kind), None)
        if row is not None:
            return row
    return None


def _state(
    known: Known,
    running: SwitchView | None,
    ended: SwitchView | None,
    warnings: tuple[Note, ...],
    residents: tuple[ResidentRow, ...],
    host: Any,
    now: datetime,
) -> tuple[str, str]:
    if running is not None:
        return "busy", running.word
    if known.failures >= OFFLINE_AFTER:
        return "offline", "Not reachable"
    loaded = _loaded_word(host, residents)
    if host.degraded:
        lost = ended is not None and ended.state == State.ACTIVE
        return "failed", "Not in memory" if lost else "Not restored"
    if ended is not None and ended.needs_a_look:
        return "failed", f"{loaded}, switch failed"
    if known.answered_at is None:
        return "stale", "Not read yet"
    age = (now - known.answered_at) / timedelta(seconds=1)
    if age > STALE_AFTER_S:
        return "stale", f"{_age(age)} old"
    if warnings:
        slow = any(r.slow and r.kind == "active" for r in residents)
        return "warning", f"{loaded}, slow" if slow else loaded
    active = bool(residents) and loaded == "Active"
    return ("active" if active else "idle"), loaded


def _loaded_word(host: Any, residents: tuple[ResidentRow, ...]) -> str:
    if any(r.kind == "active" for r in residents):
        return "Active"
    if not residents:
        return "Nothing loaded"
    return "Active model not loaded" if host.active_digest else "None active"


def _age(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)}{NBSP}{name}"
    return f"{int(seconds)}{NBSP}s"


def _warnings(
    host: Any, known: Known, pins: Pins, drifts: tuple[Recorded, ...]
) -> tuple[Note, ...]:
    """The drift that is recorded, as far as what is shown beside it bears it out: a moment after
    a switch it may be over and not yet judged. Nothing is told of a host that does not answer."""
    if known.error or known.at is None:
        return ()
    here = {r.digest for r in known.resident}
    means = {i.name: i.digest for i in known.installed}
    wanted = {host.active_digest, *(means.get(name, name[:80]) for name in pins)}
    return tuple(
        Note("warning", d.text, (d.model,) if d.model else ())
        for d in drifts
        if _still(d, here, wanted)
    )


def _still(d: Recorded, here: set[str], wanted: set[str]) -> bool:
    match d.kind:
        case Kind.UNREACHABLE:
            return False  # its row says so by itself
        case Kind.FLAPPING:
            return True
        case Kind.GHOST | Kind.FOREIGN:
            return d.digest in here
    return d.digest in wanted and not (d.kind in GONE and d.digest in here)


def _notes(
    host: Any,
    known: Known,
    ended: SwitchView | None,
    warnings: tuple[Note, ...],
    state: str,
) -> tuple[Note, ...]:
    notes = list(warnings)
    if ended is not None and (ended.needs_a_look or host.degraded):
        text = host.degraded or ended.outcome
        if ended.error and not host.degraded and ended.nothing_touched:
            text = f"The switch to {ended.to_model} failed: {ended.error} {ended.outcome}"
        href = f"/switches/{ended.id}/"
        notes.insert(0, Note("failed", text, ended.names, href, "See what happened"))
    if state == "offline":
        notes.append(Note("offline", f"{known.error} Check that Ollama runs on {host.name}."))
    elif known.error and state != "busy":
        notes.append(Note("offline", f"The last read failed: {known.error}"))
    return tuple(notes)


def _facts(residents: tuple[ResidentRow, ...], main: ResidentRow | None) -> tuple[str, ...]:
    share = []
    if main is not None:
        share = [f"{main.gpu_percent}{NBSP}% on GPU" if main.size_vram else "on CPU"]
    rest = [r for r in residents if r is not main]
    counts = ((sum(r.kind == "pin" for r in rest), "pinned"),
              (sum(r.kind in {"other", "active"} for r in rest), "more loaded"),
              (sum(r.kind == "ghost" for r in rest), "overdue"))  # fmt: skip
    return (*share, *(f"{n}{NBSP}{word}" for n, word in counts if n))


def _bar(
    host: Any, residents: tuple[ResidentRow, ...], running: SwitchView | None, lost: bool
) -> Bar:
    parts = [Part("lost" if lost else r.kind, r.name, r.size_vram or r.size) for r in residents]
    title = f"Memory on {host.name}, last known" if lost else f"Memory on {host.name}"
    return bar(title, parts, host.vram_bytes)


def _holds(host: Any, known: Known) -> str:
    facts = sorted(f"{r.digest}:{bytes_of(r)}" for r in known.resident)
    text = "|".join([*facts, host.active_digest])
    return hashlib.sha256(text.encode()).hexdigest()[:12]
