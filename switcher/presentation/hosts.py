"""Hosts as pages show them: a state, a word, a bar and notes; and the page of one host."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from django.urls import reverse

from switcher.domain.drift import GONE, OFFLINE_AFTER, Kind, OpenDrift
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Observation, find_installed, is_cloud
from switcher.domain.states import State
from switcher.domain.versions import Feature, missing_in
from switcher.domain.wording import NBSP
from switcher.presentation.bars import Bar, Part, bar
from switcher.presentation.residents import ResidentRow, loaded_words, resident_rows
from switcher.presentation.switches import SwitchLine, SwitchView, line_of, view_of
from switcher.queries.drifts import DriftRow, recent_drifts
from switcher.queries.from_rows import from_row, grouped
from switcher.queries.hosts import (
    RECENT_SWITCHES,
    HostDetail,
    host_detail,
    host_details,
    last_load_s,
)
from switcher.queries.profiles import keep_alives
from switcher.queries.switches import Filters, switches

STALE_AFTER_S = 15.0
KIND_WORDS = {
    "cloud": "Cloud models, which send prompts away",
    "embedding": "Embedding models",
    "image": "Image models",
    "audio": "Audio models",
    "MLX": "MLX models",
}


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence next to its cause. `names` are set in mono; `href` leads to more; a `headline` is
    bold."""

    state: str  # warning, failed, offline, busy, ok
    text: str
    names: tuple[str, ...] = ()
    href: str = ""
    link: str = ""
    headline: str = ""


@dataclass(frozen=True)
class HostView(HostDetail):
    """A host in a list. `model` is what is actually loaded, not what should be."""

    now: datetime

    @cached_property
    def residents(self) -> tuple[ResidentRow, ...]:
        return resident_rows(self, self.now)

    @cached_property
    def main(self) -> ResidentRow | None:
        """Return the active model if it is loaded, else the largest model that is not pinned."""
        return next((row for row in self.residents if row.kind != "pin"), None)

    @property
    def cloud_model(self) -> str:
        """Return the active model if it is a cloud model, which is never loaded here."""
        if self.active is None:
            return ""
        name = self.active.name
        row = find_installed(self.reading.installed, name)
        return name.short if is_cloud(name, row) else ""

    @property
    def model(self) -> str:
        return self.cloud_model or (self.main.name.short if self.main else "")

    @property
    def in_memory(self) -> bool:
        """Return whether nothing is in VRAM, so that the host computes on its CPU."""
        return bool(self.residents) and not any(r.size_vram for r in self.residents)

    @property
    def on_disk(self) -> tuple[str, ...]:
        """Return the models that answer prompts, by the names that people write."""
        rows = self.reading.installed
        return tuple(
            i.name.short
            for i in rows
            if i.answers and not i.embeds_only and (self.allows_cloud or not i.is_cloud)
        )

    @cached_property
    def switch(self) -> SwitchView | None:
        return view_of(self.running, self.now) if self.running else None

    @cached_property
    def _state_and_word(self) -> tuple[str, str]:
        ended, reading = self.last_ended, self.reading
        if self.switch is not None:
            return "busy", self.switch.word
        if reading.failures >= OFFLINE_AFTER:
            return "offline", "Not reachable"
        loaded = _loaded_word(self)
        if self.degraded:
            lost = ended is not None and ended.state is State.ACTIVE
            return "failed", "Not in memory" if lost else "Not restored"
        if ended is not None and ended.needs_attention:
            return "failed", f"{loaded}, switch failed"
        if reading.answered_at is None:
            return "stale", "Not read yet"
        age_s = (self.now - reading.answered_at) / timedelta(seconds=1)
        if age_s > STALE_AFTER_S:
            return "stale", f"{_age(age_s)} old"
        if self.warnings:
            slow = any(r.slow and r.kind == "active" for r in self.residents)
            return "warning", f"{loaded}, slow" if slow else loaded
        return ("active" if loaded == "Active" else "idle"), loaded

    @property
    def state(self) -> str:
        """Return active, idle, busy, warning, failed, offline or stale."""
        return self._state_and_word[0]

    @property
    def word(self) -> str:
        return self._state_and_word[1]

    @property
    def last_known(self) -> bool:
        """Return whether what is shown may be outdated."""
        return self.state in {"offline", "stale"}

    @property
    def answers(self) -> bool:
        return self.state != "offline" and self.reading.answered_at is not None

    @property
    def needs_attention(self) -> bool:
        return self.state in {"warning", "failed", "offline", "stale"}

    @cached_property
    def bar(self) -> Bar:
        title = f"Memory on {self.name}{', last known' if self.last_known else ''}"
        lost = "lost" if self.last_known else ""
        parts = [Part(lost or r.kind, r.name.short, r.bytes) for r in self.residents]
        return bar(title, parts, self.vram_bytes)

    @property
    def facts(self) -> tuple[str, ...]:
        """Return more about what is loaded, a few words each."""
        main, rest = self.main, [r for r in self.residents if r is not self.main]
        share = []
        if main is not None:
            share = [f"{main.gpu_percent}{NBSP}% on GPU" if main.size_vram else "on CPU"]
        counts = (
            (sum(r.kind == "pin" for r in rest), "pinned"),
            (sum(r.kind in {"other", "active"} for r in rest), "more loaded"),
            (sum(r.kind == "ghost" for r in rest), "overdue"),
        )
        if self.cloud_model:
            share = ["in the cloud"]
        return (*share, *(f"{n}{NBSP}{word}" for n, word in counts if n))

    @cached_property
    def warnings(self) -> tuple[Note, ...]:
        """Return the recorded drift that the newest reading does not contradict: right after a
        switch, drift may be over without being recorded as ended yet. Return nothing while a switch
        runs or the host does not answer.
        """
        if self.running is not None or self.reading.error or self.reading.at is None:
            return ()
        loaded = {r.digest for r in self.reading.resident}
        digests = {i.name: i.digest for i in self.reading.installed}
        wanted = {digests.get(name, name.full[:80]) for name in self.pinned_models}
        wanted.add(self.active.digest if self.active else "")
        return tuple(
            Note("warning", d.text, (d.model,) if d.model else ())
            for d in self.drifts
            if _is_still_so(d, loaded, wanted)
        )

    @property
    def notes(self) -> tuple[Note, ...]:
        notes = list(self.warnings)
        ended = self.last_ended
        if not self.running and ended is not None and (ended.needs_attention or self.degraded):
            notes.insert(0, _failure(self, view_of(ended, self.now)))
        error = self.reading.error
        if self.state == "offline":
            notes.append(Note("offline", f"{error} Check that Ollama runs on {self.name}."))
        elif error and self.state != "busy":
            notes.append(Note("offline", f"The last read failed: {error}"))
        return tuple(notes)

    @property
    def ghosts(self) -> tuple[ResidentRow, ...]:
        return tuple(r for r in self.residents if r.kind == "ghost")

    @property
    def ghosts_mark(self) -> str:
        """Return a value that changes whenever the ghosts on the page change."""
        return _mark(f"{g.digest[:12]}-{int(g.reached)}-{g.remains}" for g in self.ghosts)

    @property
    def holds(self) -> str:
        """Return a value that changes when an earlier plan may no longer apply."""
        active = self.active.digest if self.active else ""
        return _mark([*sorted(f"{r.digest}:{r.bytes}" for r in self.residents), active])


def present_host(detail: HostDetail, now: datetime) -> HostView:
    return from_row(HostView, detail, now=now)


def host_list(
    now: datetime, fresh: Mapping[int, Observation] | None = None
) -> tuple[HostView, ...]:
    """Read and present every host."""
    return tuple(present_host(detail, now) for detail in host_details(fresh))


def _mark(facts: Iterable[str]) -> str:
    return hashlib.sha256("|".join(facts).encode()).hexdigest()[:12]


def _loaded_word(host: HostView) -> str:
    if host.cloud_model or any(r.kind == "active" for r in host.residents):
        return "Active"
    if not host.residents:
        return "Nothing loaded"
    return "Active model not loaded" if host.active else "None active"


def _age(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)}{NBSP}{name}"
    return f"{int(seconds)}{NBSP}s"


def _is_still_so(d: OpenDrift, loaded: set[str], wanted: set[str]) -> bool:
    match d.kind:
        case Kind.UNREACHABLE:
            return False  # the host's state shows it already
        case Kind.FLAPPING | Kind.SAME_SERVER:
            return True
        case Kind.GHOST | Kind.FOREIGN:
            return d.digest in loaded
    return d.digest in wanted and not (d.kind in GONE and d.digest in loaded)


def _failure(host: HostView, ended: SwitchView) -> Note:
    text = host.degraded or ended.outcome
    if ended.error and not host.degraded and ended.nothing_touched:
        text = f"The switch to {ended.to_model} failed: {ended.error} {ended.outcome}"
    href = reverse("switch", args=[ended.id])
    return Note("failed", text, ended.names, href, "See what happened")


@dataclass(frozen=True, slots=True)
class HostProfile:
    """A profile on the page of a host. `state` is active, idle or none."""

    name: str
    model: str
    state: str
    word: str
    size: int | None
    keep_alive: str
    load_s: float | None


@dataclass(frozen=True)
class HostPage(HostView):
    """The content of the page of a host."""

    profiles: tuple[HostProfile, ...]
    recent_switches: tuple[SwitchLine, ...]
    recent_drifts: tuple[DriftRow, ...]  # open ones first

    @property
    def missing_features(self) -> tuple[Feature, ...]:
        """Return what the host's version of Ollama lacks."""
        return missing_in(self.reading.version)

    @property
    def ordinary_models(self) -> tuple[Installed, ...]:
        return tuple(i for i in self.reading.installed if not i.kind)

    @property
    def other_models(self) -> tuple[tuple[str, tuple[Installed, ...]], ...]:
        """Return installed models that are no ordinary language models, by their kind in words."""
        kinds = grouped((i.kind, i) for i in self.reading.installed if i.kind)
        return tuple((words, kinds[kind]) for kind, words in KIND_WORDS.items() if kinds[kind])


def host_page(name: str, now: datetime, fresh: Mapping[int, Observation] | None = None) -> HostPage:
    """Read and present one host. Raises NotFound."""
    host = host_detail(name, fresh)
    load_s = last_load_s(host.id, (i.digest for i in host.reading.installed))
    recent = switches(Filters(host_id=host.id), RECENT_SWITCHES)
    return from_row(
        HostPage,
        host,
        now=now,
        profiles=tuple(_profile(host, load_s, *profile) for profile in keep_alives()),
        recent_switches=tuple(line_of(switch, now) for switch in recent),
        recent_drifts=recent_drifts(host.id),
    )


def _profile(
    host: HostDetail, load_s: Mapping[str, float | None], name: str, tag: str, keep_alive: str
) -> HostProfile:
    model = ModelName.parse(tag)
    on_disk = find_installed(host.reading.installed, model)
    state, word = loaded_words(on_disk, host.reading)
    active = host.active
    if active and on_disk and (active.profile, active.digest) == (name, on_disk.digest):
        word = "Active" if state == "active" else "Active, not loaded"
    return HostProfile(
        name=name,
        model=model.short,
        state=state,
        word=word,
        size=on_disk.size if on_disk else None,
        keep_alive=keep_alive,
        load_s=load_s.get(on_disk.digest) if on_disk else None,
    )
