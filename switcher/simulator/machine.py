"""The host itself as a pure, deterministic machine: no I/O, no wall clock.

Time is a number of seconds that only `advance` moves. Requests are submitted and come back through
their `Ask`; whoever drives the machine asks `next_event_at()` and advances to it. The same machine
serves real HTTP in real time and a simulation in simulated time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from switcher.simulator.catalog import Manifest

RUNNER_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap")
BUSY_TEXT = "server busy, please try again.  maximum pending requests exceeded"
EOF_TEXT = "an error was encountered while running the model: unexpected EOF"


@dataclass(frozen=True, slots=True)
class Config:
    """Sizes in bytes, rates per second, times in seconds."""

    vram: int = 24_000_000_000
    load_rate: float = 2_000_000_000
    tokens_per_s: float = 60.0
    max_loaded: int = 0  # 0: as many as fit
    max_queue: int = 512
    default_keep_alive_s: float = 300.0
    unload_s: float = 0.02
    prompt_s: float = 0.02
    embed_s: float = 0.01


@dataclass(eq=False, slots=True)
class Ask:
    """One request that needs a model. `tokens` 0 means: load only."""

    name: str
    manifest: Manifest
    options: dict[str, Any]
    keep_alive_s: float | None
    tokens: int
    asked_at: float
    state: str = "waiting"  # waiting, loading, running, done, failed, gone
    status: int = 200
    error: str = ""
    started_at: float = 0.0
    ends_at: float = math.inf
    load_s: float = 0.0
    cut: bool = False  # the connection broke: no answer at all
    on_change: Callable[[Ask], None] | None = None

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed", "gone")

    def told(self, state: str) -> None:
        self.state = state
        if self.on_change is not None:
            self.on_change(self)


@dataclass(eq=False, slots=True)
class Runner:
    """A loaded model, keyed by its file. `name` is that by which it was loaded first (fact 21)."""

    name: str
    manifest: Manifest
    options: dict[str, Any]
    size: int
    size_vram: int
    keep_alive_s: float
    loaded_at: float = math.inf  # while loading: when it will be there
    loading: bool = True
    expires_at: float = math.inf
    leaves_at: float = math.inf
    dead: bool = False
    running: list[Ask] = field(default_factory=list)

    @property
    def leaving(self) -> bool:
        return self.leaves_at < math.inf

    @property
    def num_ctx(self) -> int:
        return int(self.options.get("num_ctx", self.manifest.num_ctx))


def resident_size(manifest: Manifest, num_ctx: int) -> int:
    """A runner takes more than its file: context and buffers, growing with both."""
    per_token = 128_000 * math.sqrt(manifest.size / 9e9)
    return round(manifest.size * 1.05 + num_ctx * per_token) + 5_000_000


class Machine:
    """The scheduler: one load at a time, eviction, keep-alive clocks, queue."""

    def __init__(self, config: Config, now: float = 0.0) -> None:
        self.config = config
        self.now = now
        self.runners: list[Runner] = []
        self.pending: list[Ask] = []
        self.journal: list[dict[str, Any]] = []
        self.counts = {"loads": 0, "unloads": 0, "served": 0}
        # Faults, set from outside: consulted when a load begins or an unload is asked for.
        self.load_fault: Callable[[str, Manifest], tuple[int, str, bool] | None] = lambda n, m: None
        self.vram_share: Callable[[str], float | None] = lambda n: None
        self.load_factor: Callable[[str], float] = lambda n: 1.0
        self.ignores_unload: Callable[[str], bool] = lambda n: False

    # -- what callers do

    def submit(self, ask: Ask) -> Ask:
        """Take a request. It starts at once on a loaded model, else it queues (fact 14)."""
        runner = self._usable(ask)
        if runner is not None:
            self._start(ask, runner)
        elif len(self.pending) >= self.config.max_queue:
            self._fail(ask, 503, BUSY_TEXT)
        else:
            self.pending.append(ask)
            self._settle()
        return ask

    def unload(self, manifest: Manifest) -> None:
        """Asked for an unload: it is answered before it happens (fact 1), and does nothing to a
        model that is still loading (fact 4) or not loaded (fact 5)."""
        runner = self._of(manifest.blob)
        if runner is None or runner.loading or runner.leaving or self.ignores_unload(runner.name):
            return
        runner.keep_alive_s = 0.0
        runner.expires_at = self.now
        if not runner.running:
            self._leave(runner)
        self._settle()  # a busy one stays until its requests end (fact 2)

    def abandon(self, ask: Ask) -> None:
        """The caller went away: its place is given up, its load aborted (fact 9)."""
        if ask.ended:
            return
        if ask in self.pending:
            self.pending.remove(ask)
            runner = self._of(ask.manifest.blob)
            if runner is not None and runner.loading and ask.state == "loading":
                self.runners.remove(runner)
                self._note("load aborted", runner.name)
        for runner in self.runners:
            if ask in runner.running:
                self._finish_on(runner, ask)
        ask.told("gone")
        self._settle()

    # -- what happens to it

    def evict(self, name: str) -> bool:
        """Somebody else's doing: the model is gone at once, with what it was answering."""
        runner = next((r for r in self.runners if r.name == name), None)
        if runner is None:
            return False
        self._drop(runner, EOF_TEXT)
        self._settle()
        return True

    def kill_runner(self, name: str) -> bool:
        """Its process dies; it stays listed until the next request for it (fact 19)."""
        runner = next((r for r in self.runners if r.name == name), None)
        if runner is None:
            return False
        runner.dead = True
        for ask in list(runner.running):
            runner.running.remove(ask)
            self._fail(ask, 500, EOF_TEXT)
        return True

    def restart(self) -> None:
        """The server restarts: nothing is loaded, every connection breaks."""
        for ask in [*self.pending, *(a for r in self.runners for a in r.running)]:
            ask.cut = True
            ask.told("failed")
        self.pending.clear()
        self.runners.clear()
        self._note("restart", "")

    # -- time

    def next_event_at(self) -> float:
        """When something happens by itself next; infinity if nothing will."""
        moments = [math.inf]
        for runner in self.runners:
            moments.append(runner.leaves_at)
            if runner.loading:
                moments.append(runner.loaded_at)
            elif not runner.leaving:
                moments += [a.ends_at for a in runner.running]
                if not runner.running:
                    moments.append(runner.expires_at)
        return min(moments)

    def advance(self, to: float) -> None:
        """Let everything happen that happens until `to`, in order."""
        while (at := self.next_event_at()) <= to:
            self.now = max(self.now, at)
            self._happen()
            self._settle()
        self.now = max(self.now, to)

    def _happen(self) -> None:
        for runner in list(self.runners):
            if runner.leaves_at <= self.now:
                self.runners.remove(runner)
                self.counts["unloads"] += 1
                self._note("unloaded", runner.name)
            elif runner.loading and runner.loaded_at <= self.now:
                runner.loading = False
                runner.expires_at = self.now + runner.keep_alive_s
                self.counts["loads"] += 1
                self._note("loaded", runner.name)
            else:
                self._finish_and_expire(runner)

    def _finish_and_expire(self, runner: Runner) -> None:
        for ask in [a for a in runner.running if a.ends_at <= self.now]:
            self._finish_on(runner, ask)
            self.counts["served"] += 1
            ask.told("done")
        idle = not runner.running and not runner.loading and not runner.leaving
        if idle and runner.expires_at <= self.now:
            self._leave(runner)

    # -- the scheduler

    def _settle(self) -> None:
        """Let the head of the queue go as far as it can; those for loaded models pass it."""
        for ask in list(self.pending):
            runner = self._usable(ask)
            if runner is not None:
                self.pending.remove(ask)
                self._start(ask, runner)
        while self.pending and self._try_head(self.pending[0]):
            pass

    def _try_head(self, ask: Ask) -> bool:
        """One decision for the head of the queue; True if it made progress that allows another."""
        if any(r.loading for r in self.runners):
            return False  # one load at a time
        runner = self._of(ask.manifest.blob)
        if runner is not None:
            if not runner.leaving:  # other options, or a dead process: load anew (facts 12, 19)
                self._expire_for(runner)
            return False
        size = resident_size(ask.manifest, self._num_ctx(ask))
        victim = self._victim(size)
        if victim is not None:
            self._expire_for(victim)
            return False
        if any(r.leaving for r in self.runners) and not self._fits(size):
            return False
        return self._begin_load(ask, size)

    def _victim(self, size: int) -> Runner | None:
        """Whom to evict for `size` bytes: an idle one first, else that which expires soonest."""
        staying = [r for r in self.runners if not r.leaving]
        full = self.config.max_loaded and len(self.runners) >= self.config.max_loaded
        if not staying or (not full and self._fits(size)):
            return None
        if any(r.leaving for r in self.runners):
            return None  # one at a time: its room may be enough
        return min(staying, key=lambda r: (bool(r.running), self._shown_expiry(r)))

    def _fits(self, size: int) -> bool:
        return sum(r.size for r in self.runners) + size <= self.config.vram

    def _expire_for(self, runner: Runner) -> None:
        runner.keep_alive_s, runner.expires_at = 0.0, self.now
        if not runner.running:
            self._leave(runner)

    def _begin_load(self, ask: Ask, size: int) -> bool:
        fault = self.load_fault(ask.name, ask.manifest)
        if fault is not None:
            status, text, evicts_all = fault
            if evicts_all:  # fact 15: out of memory, all others evicted, nothing restored
                self.runners = [r for r in self.runners if r.running]
            self.pending.remove(ask)
            self._fail(ask, status, text)
            return True
        options = {k: v for k, v in ask.options.items() if k in RUNNER_OPTIONS}
        default = self.config.default_keep_alive_s  # fact 12: falls back unless named
        keep_alive = default if ask.keep_alive_s is None else ask.keep_alive_s
        took = size / self.config.load_rate * self.load_factor(ask.name)
        self.runners.append(
            Runner(
                ask.name,
                ask.manifest,
                options,
                size,
                self._in_vram(ask, size),
                keep_alive,
                loaded_at=self.now + took,
            )
        )
        ask.load_s = took
        ask.told("loading")
        return False

    def _in_vram(self, ask: Ask, size: int) -> int:
        share = self.vram_share(ask.name)
        if share is not None:
            return round(size * share)
        if ask.options.get("num_gpu") == 0:
            return 0
        free = self.config.vram - sum(r.size_vram for r in self.runners)
        return max(0, min(size, free))

    def _usable(self, ask: Ask) -> Runner | None:
        runner = self._of(ask.manifest.blob)
        if runner is None or runner.loading or runner.leaving or runner.dead:
            return None
        return None if self._reloads(ask, runner) else runner

    def _reloads(self, ask: Ask, runner: Runner) -> bool:
        """Fact 12: runner options that differ, absent ones meaning the model's own defaults."""
        if self._num_ctx(ask) != runner.num_ctx:
            return True
        others = [o for o in RUNNER_OPTIONS if o != "num_ctx"]
        return any(ask.options.get(o) != runner.options.get(o) for o in others)

    @staticmethod
    def _num_ctx(ask: Ask) -> int:
        return int(ask.options.get("num_ctx", ask.manifest.num_ctx))

    def _start(self, ask: Ask, runner: Runner) -> None:
        if ask.keep_alive_s is not None:
            # Facts 3, 13: it overwrites what was set, and so revives one that was to leave.
            runner.keep_alive_s = ask.keep_alive_s
        ask.started_at = self.now
        work = self.config.prompt_s + ask.tokens / self.config.tokens_per_s if ask.tokens else 0.0
        ask.ends_at = self.now + work
        runner.running.append(ask)
        ask.told("running")

    def _finish_on(self, runner: Runner, ask: Ask) -> None:
        runner.running.remove(ask)
        if not runner.running:
            runner.expires_at = self.now + runner.keep_alive_s

    def _fail(self, ask: Ask, status: int, error: str) -> None:
        ask.status, ask.error = status, error
        ask.told("failed")

    def _leave(self, runner: Runner) -> None:
        runner.leaves_at = self.now + self.config.unload_s

    def _drop(self, runner: Runner, error: str) -> None:
        self.runners.remove(runner)
        self._note("evicted", runner.name)
        for ask in list(runner.running):
            self._fail(ask, 500, error)

    def _of(self, blob: str) -> Runner | None:
        return next((r for r in self.runners if r.manifest.blob == blob), None)

    def _shown_expiry(self, runner: Runner) -> float:
        if runner.running and runner.keep_alive_s > 0:
            return self.now + runner.keep_alive_s
        return runner.expires_at

    def listed(self) -> list[tuple[Runner, float]]:
        """What `/api/ps` shows, newest first: a model is there only once it is loaded (fact 8)."""
        rows = [(r, self._shown_expiry(r)) for r in self.runners if not r.loading]
        return sorted(rows, key=lambda row: row[0].loaded_at, reverse=True)

    def _note(self, what: str, name: str) -> None:
        self.journal.append({"at": round(self.now, 4), "what": what, "name": name})
        del self.journal[:-2000]
