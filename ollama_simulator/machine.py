"""The scheduler as a pure, deterministic machine: no I/O, no wall clock.

Time is a number of seconds that only `advance` moves. Requests are submitted and answered through
their `Ask`; the driver of the machine asks for `next_event_at()` and advances to it. The same
machine serves real HTTP in real time and a simulation in simulated time.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import Any

from ollama_simulator.catalog import Manifest
from ollama_simulator.runner import (
    LAYERS,
    ON_CPU,
    RUNNER_OPTIONS,
    Ask,
    Config,
    Fate,
    KindFate,
    Runner,
    effective_ctx,
    reloads,
    resident_bytes,
)

BUSY_TEXT = "server busy, please try again.  maximum pending requests exceeded"
EOF_TEXT = "an error was encountered while running the model: unexpected EOF"
MAX_NOTES = 5000


class Machine:
    """A scheduler: one load at a time, eviction, keep-alive timers, a queue."""

    def __init__(self, config: Config, fate: Fate | None = None, now: float = 0.0) -> None:
        self.config = config
        self.fate: Fate = fate or KindFate()
        self.now = now
        self.runners: list[Runner] = []
        self.loading: Runner | None = None
        self.head: Ask | None = None  # the request that the scheduler is working on
        self.queue: deque[Ask] = deque()
        self._awaits_unload = False
        self.journal: deque[dict[str, Any]] = deque(maxlen=MAX_NOTES)
        self.counts: dict[str, Counter[str]] = {
            what: Counter() for what in ("loads", "unloads", "served", "failed", "aborted")
        }

    # -- calls from clients

    def submit(self, ask: Ask) -> Ask:
        """Accept a request at time `now`. With its model loaded, it starts at once, ahead of the
        queue; else it waits in the queue, or is refused if the queue is full (fact 14).
        """
        ask.asked_at = self.now
        runner = self._of(ask.manifest)
        if runner is not None and self._serves(runner, ask):
            self._start(ask, runner)
        elif len(self.queue) >= self.config.max_queue:
            self._fail(ask, 503, BUSY_TEXT)
        else:
            self.queue.append(ask)
        self.advance(self.now)
        return ask

    def unload(self, manifest: Manifest) -> None:
        """Unload a model; the response precedes the unload (fact 1). Does nothing if the model is
        not loaded (fact 5) or still loading (fact 4); a busy one stays until its requests end (fact
        2).
        """
        runner = self._of(manifest)
        if runner is None or runner.leaving or self.fate.ignores_unload(runner.name):
            return
        runner.expires_at = self.now
        self._expire(runner)
        self.advance(self.now)

    def abandon(self, ask: Ask) -> None:
        """Drop the request of a disconnected client and abort its load (fact 9). An eviction that
        the load has begun continues, and later requests wait for it."""
        if ask.ended:
            return
        runner = next((r for r in self.runners if ask in r.asks), None)
        if runner is not None:
            self._finish(runner, ask)
        elif ask is self.head and self.loading is not None:
            self._count("aborted", ask.name)
            self.loading, self.head = None, None
        ask.told("gone")
        self.advance(self.now)

    # -- failures

    def evict(self, runner: Runner) -> None:
        """Remove a model at once, with its running replies, as if something else had evicted it."""
        for ask in list(runner.asks):
            self._fail(ask, 500, EOF_TEXT)
        runner.asks.clear()
        self._remove(runner, "evicted")
        self.advance(self.now)

    def kill_runner(self, runner: Runner) -> None:
        """Kill a model's process (fact 19). The model stays listed, its timer keeps running, and
        the next request reloads it.
        """
        runner.dead = True
        for ask in list(runner.asks):
            self._finish(runner, ask)
            self._fail(ask, 500, EOF_TEXT)
        self.advance(self.now)

    def restart(self) -> None:
        """Restart the server: unload everything, empty the queue and break every connection."""
        asks = [*self.queue, *(a for r in self.runners for a in r.asks)]
        asks += [self.head] if self.head is not None else []
        self.queue.clear()
        self.runners.clear()
        self.loading, self.head, self._awaits_unload = None, None, False
        self.note("restart")
        for ask in asks:
            if not ask.ended:
                ask.cut = True
                ask.told("failed")

    # -- time

    def next_event_at(self) -> float:
        """Return the time of the next event in seconds; infinity if there is none."""
        moments = [self.loading.ready_at] if self.loading is not None else []
        for runner in self.runners:
            moments += [runner.leaves_at] if runner.leaving else [runner.timer_at]
            moments += [a.ends_at for a in runner.asks]
        return min(moments, default=math.inf)

    def advance(self, to: float) -> None:
        """Process all events up to time `to`, in order."""
        self._settle()
        while (at := self.next_event_at()) <= to:
            self.now = max(self.now, at)
            self._happen()
            self._settle()
        self.now = max(self.now, to)

    def _happen(self) -> None:
        if self.loading is not None and self.loading.ready_at <= self.now:
            self._end_load(self.loading)
        for runner in list(self.runners):
            for ask in [a for a in runner.asks if a.ends_at <= self.now]:
                self._finish(runner, ask)
                self._end(ask)
            if runner.timer_at <= self.now:
                self._leave(runner)
            if runner.leaves_at <= self.now:
                self._remove(runner, "unloads")

    def _end(self, ask: Ask) -> None:
        self._count("served", ask.name)
        if ask.cuts:
            ask.cut = True
            ask.told("failed")
        else:
            ask.told("done")

    # -- the scheduler: one request at a time, in order of arrival

    def _settle(self) -> None:
        while True:
            while self.head is None and self.queue:
                first = self.queue.popleft()
                self.head = None if first.ended else first
            if self.head is None or not self._go_on(self.head):
                return
            self.head = None

    def _go_on(self, ask: Ask) -> bool:
        """Advance the first request in the queue; return True if the next request can be tried,
        too."""
        if self.loading is not None or self._awaits_unload:
            return False
        if ask.ended:  # its client left while it waited for an eviction
            return True
        runner = self._of(ask.manifest)
        if runner is not None:
            if self._serves(runner, ask):
                self._start(ask, runner)
                return True
            return self._make_leave(runner)  # facts 12, 19: reload
        if ask.failure is not None:
            return self._try_again(ask)
        victim = self._victim(ask)
        return self._make_leave(victim) if victim is not None else self._load(ask)

    def _make_leave(self, runner: Runner) -> bool:
        self._expire(runner)
        self._awaits_unload = True
        return False

    def _victim(self, ask: Ask) -> Runner | None:
        """Return the model to evict for a request (fact 14): an idle one if there is one, else the
        one with the shortest keep-alive, once its requests have ended.
        """
        full = len(self.runners) >= self.config.most_loaded
        if not self.runners or (not full and self._fits(ask)):
            return None
        order = sorted(self.runners, key=lambda r: (r.keep_alive_s, r.manifest.blob))
        return next((r for r in order if not r.asks), order[0])

    def _fits(self, ask: Ask) -> bool:
        if not self.config.vram or ask.options.get("num_gpu") == 0:
            return True
        return self._size(ask) <= self._free() * self.config.headroom

    def _free(self) -> int:
        return max(0, self.config.vram - sum(r.size_vram for r in self.runners))

    def _size(self, ask: Ask) -> int:
        places = 1 if ask.manifest.embeds else self.config.parallel
        return resident_bytes(ask.manifest, effective_ctx(ask.options, ask.manifest) * places)

    def _load(self, ask: Ask, fails: bool = True) -> bool:
        """Start a load. It is not listed until it has finished (fact 8)."""
        size, config = self._size(ask), self.config
        in_vram = self._in_vram(ask, size)
        share = in_vram / size if config.vram else 1.0
        failure = self.fate.load_failure(ask.name) if fails else None
        seconds = ask.manifest.size / config.load_rate * self.fate.load_factor(ask.name)
        self.loading = Runner(
            name=ask.name,
            manifest=ask.manifest,
            options={k: v for k, v in ask.options.items() if k in RUNNER_OPTIONS},
            num_ctx=effective_ctx(ask.options, ask.manifest),
            size=size,
            size_vram=in_vram,
            tokens_per_s=config.tokens_per_s * (ON_CPU + (1 - ON_CPU) * share),
            # Fact 12: the loading request sets the keep-alive, else the server's default applies.
            keep_alive_s=(
                config.default_keep_alive_s if ask.keep_alive_s is None else ask.keep_alive_s
            ),
            shift=ask.shift,
            ready_at=self.now + (seconds if failure is None else failure.after_s),
            failure=failure,
        )
        self.note("load begins", ask.name)
        ask.told("loading")
        return False

    def _in_vram(self, ask: Ask, size: int) -> int:
        """Return the bytes that fit into VRAM; the rest goes to main memory."""
        share = self.fate.vram_share(ask.name)
        if not self.config.vram:
            return 0
        layers = int(ask.options.get("num_gpu", -1))
        if share is None and layers >= 0:
            share = min(1.0, layers / LAYERS)
        return min(self._free(), size if share is None else round(size * share))

    def _end_load(self, runner: Runner) -> None:
        ask, self.loading = self.head, None
        assert ask is not None
        if runner.failure is None:
            self.runners.append(runner)
            self._count("loads", runner.name)
            self._start(ask, runner)
        elif runner.failure.evict_all and self.runners:
            ask.failure = runner.failure
            self.note("out of memory", ask.name)
            return  # it keeps its turn and retries once all others are unloaded
        else:
            self._fail(ask, runner.failure.status, runner.failure.text)
        self.head = None

    def _try_again(self, ask: Ask) -> bool:
        """Prepare a retry after running out of memory (fact 15): unload all others, for good."""
        for runner in self.runners:
            self._expire(runner)
        if self.runners:
            self._awaits_unload = True
            return False
        failure, ask.failure = ask.failure, None
        assert failure is not None
        if failure.recovers:
            return self._load(ask, fails=False)
        self._fail(ask, failure.status, failure.text)
        return True

    # -- runners and their requests

    def _of(self, manifest: Manifest) -> Runner | None:
        return next((r for r in self.runners if r.manifest.blob == manifest.blob), None)

    @staticmethod
    def _serves(runner: Runner, ask: Ask) -> bool:
        return not (runner.leaving or runner.dead or reloads(ask, runner))

    def _start(self, ask: Ask, runner: Runner) -> None:
        runner.timer_at = math.inf
        if ask.keep_alive_s is not None:
            # Facts 3, 13: it overwrites the earlier value, and so keeps a model that was about to
            # be unloaded.
            runner.keep_alive_s = ask.keep_alive_s
        ask.running_at = self.now
        runner.asks.append(ask)
        ask.told("waiting")
        self._fill(runner)

    def _fill(self, runner: Runner) -> None:
        """Start as many replies as the model can generate at once; a request that only loads takes
        no slot.
        """
        places = 1 if runner.manifest.embeds else self.config.parallel
        busy = sum(1 for a in runner.asks if a.state == "running" and a.tokens)
        for ask in runner.asks:
            if ask.state != "waiting" or (ask.tokens and busy >= places):
                continue
            busy += 1 if ask.tokens else 0
            self._run(ask, runner)

    def _run(self, ask: Ask, runner: Runner) -> None:
        ask.started_at = self.now
        if ask.work_s is not None:
            ask.ends_at = self.now + ask.work_s
        elif ask.tokens:
            ask.tokens_per_s, ask.prompt_s = runner.tokens_per_s, self.config.prompt_s
            ask.ends_at = ask.due_at(ask.said)
        else:
            ask.ends_at = self.now
        ask.told("running")

    def _finish(self, runner: Runner, ask: Ask) -> None:
        """Remove a finished request from its runner; restart an idle runner's timer (fact 13)."""
        runner.asks.remove(ask)
        self._fill(runner)
        if runner.asks or runner.leaving:
            return
        if runner.keep_alive_s <= 0:
            self._leave(runner)
        else:
            runner.expires_at = runner.timer_at = self.now + runner.keep_alive_s

    def _expire(self, runner: Runner) -> None:
        """Unload the runner as soon as its requests have ended."""
        runner.keep_alive_s, runner.timer_at = 0.0, math.inf
        if not runner.asks:
            self._leave(runner)

    def _leave(self, runner: Runner) -> None:
        if not runner.leaving:
            runner.timer_at = math.inf
            runner.leaves_at = self.now + self.config.unload_s

    def _remove(self, runner: Runner, how: str) -> None:
        self.runners.remove(runner)
        self._awaits_unload = False
        self._count("unloads", runner.name, how)

    def _fail(self, ask: Ask, status: int, error: str) -> None:
        ask.status, ask.error = status, error
        self._count("failed", ask.name)
        ask.told("failed")

    # -- lists and journal

    def listed(self) -> list[tuple[Runner, float]]:
        """Return loaded models with their expiry, latest expiry first, without those still loading
        (fact 8).
        """
        rows = [(r, r.shown_expiry(self.now)) for r in self.runners]
        return sorted(rows, key=lambda row: int(row[1]), reverse=True)

    def note(self, what: str, name: str = "", **more: Any) -> dict[str, Any]:
        """Add a row to the journal and return it, to be completed later."""
        row = {"at": round(self.now, 4), "what": what, "name": name, **more}
        self.journal.append(row)
        return row

    def _count(self, what: str, name: str, how: str = "") -> None:
        self.counts[what][name] += 1
        self.note(how or what, name)
