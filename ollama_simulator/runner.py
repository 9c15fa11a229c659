"""What the scheduler keeps: the host's figures, a request that waits, a loaded model. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ollama_simulator.catalog import TRAINED_CTX, Manifest

# Fact 12: those that load anew when they differ.
RUNNER_OPTIONS = ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "use_mmap")
# All that there are, with Go's name for the type; unknown ones are passed over.
OPTION_TYPES = {
    **dict.fromkeys(RUNNER_OPTIONS[:5], "integer"),
    "use_mmap": "boolean",
    **dict.fromkeys(("num_keep", "seed", "num_predict", "top_k", "repeat_last_n"), "integer"),
    **dict.fromkeys(("top_p", "min_p", "typical_p", "temperature"), "float32"),
    **dict.fromkeys(("repeat_penalty", "presence_penalty", "frequency_penalty"), "float32"),
    "stop": "array",
}
DEFAULT_BATCH = 512
LAYERS = 33  # that num_gpu counts
ON_CPU = 0.1  # of its speed that a model keeps when none of it lies in VRAM
Options = Mapping[str, int | bool]


@dataclass(frozen=True, slots=True)
class Config:
    """The host. Sizes in bytes, rates per second, times in seconds."""

    vram: int = 24_000_000_000  # 0: a host without a GPU
    load_rate: float = 2_000_000_000
    tokens_per_s: float = 60.0
    max_loaded: int = 0  # 0: three, as a server with one GPU or none chooses by itself
    max_queue: int = 512
    parallel: int = 1  # replies that one model gives at a time; others wait at the model
    default_keep_alive_s: float = 300.0
    headroom: float = 0.8  # of the free VRAM that a further model may take, else one is evicted
    unload_s: float = 0.02  # fact 27: from the unload to really gone
    prompt_s: float = 0.02
    embed_s: float = 0.01
    copy_gap_s: float = 0.0003  # fact 26: how long a copied name is empty

    @property
    def most_loaded(self) -> int:
        return self.max_loaded or 3


@dataclass(frozen=True, slots=True)
class Failure:
    """How a load fails: after `after_s` seconds, with this answer.

    `evict_all` is out of memory (fact 15): all others leave, then it is tried once more, which
    `recovers` or fails for good.
    """

    status: int
    text: str
    after_s: float = 0.0
    evict_all: bool = False
    recovers: bool = False


class Fate(Protocol):
    """What may go wrong, asked each time a load begins or an unload is asked for."""

    def load_failure(self, name: str) -> Failure | None: ...
    def vram_share(self, name: str) -> float | None: ...
    def load_factor(self, name: str) -> float: ...
    def ignores_unload(self, name: str) -> bool: ...


class KindFate:
    """Nothing goes wrong."""

    def load_failure(self, name: str) -> Failure | None:
        return None

    def vram_share(self, name: str) -> float | None:
        return None

    def load_factor(self, name: str) -> float:
        return 1.0

    def ignores_unload(self, name: str) -> bool:
        return False


@dataclass(eq=False, slots=True)
class Ask:
    """One request that needs a model, from its arrival to its end: the caller's handle.

    `state` goes queued → loading → waiting → running → done, failed or gone (the caller left);
    `waiting` is at a loaded model whose places are taken. `tokens` 0 loads only. A request that
    breaks says so in `breaks_after`: how many tokens it gives before it ends without `done`, or
    before the connection is cut where `cuts`.
    """

    name: str
    manifest: Manifest
    options: Options = field(default_factory=dict)
    keep_alive_s: float | None = None
    tokens: int = 0
    work_s: float | None = None  # instead of tokens and their rate
    asked_at: float = 0.0
    state: str = "queued"
    reason: str = ""  # of the end: load, unload, stop, length
    status: int = 200
    error: str = ""
    running_at: float = math.inf
    started_at: float = math.inf
    ends_at: float = math.inf
    tokens_per_s: float = 0.0
    prompt_s: float = 0.0
    breaks_after: int | None = None
    cuts: bool = False
    cut: bool = False  # the connection broke: no answer, or none that ends
    failure: Failure | None = None  # of its first attempt, when it is tried again
    on_change: Callable[[], None] | None = None

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed", "gone")

    @property
    def broken(self) -> bool:
        """Fact 10: answered with 200, but never done."""
        return self.breaks_after is not None and not self.cuts

    @property
    def said(self) -> int:
        """Tokens that it gives before it ends."""
        return self.tokens if self.breaks_after is None else self.breaks_after

    @property
    def load_s(self) -> float:
        """Seconds until a runner took it, its load and its waiting for that."""
        return max(0.0, self.running_at - self.asked_at) if self.running_at < math.inf else 0.0

    def due_at(self, token: int) -> float:
        """When token number `token` comes, counted from 1. Infinity while it does not run."""
        if not self.tokens_per_s:
            return self.started_at
        return self.started_at + self.prompt_s + token / self.tokens_per_s

    def told(self, state: str) -> None:
        self.state = state
        if self.on_change is not None:
            self.on_change()


@dataclass(eq=False, slots=True)
class Runner:
    """A model in memory, keyed by its file (fact 21). Sizes in bytes, times in seconds.

    `name` is that by which it was loaded first. `expires_at` is what `/api/ps` shows: it stands
    still while requests run, and only `timer_at` makes the runner leave.
    """

    name: str
    manifest: Manifest
    options: Options
    num_ctx: int
    size: int
    size_vram: int
    tokens_per_s: float
    keep_alive_s: float
    ready_at: float = math.inf  # while it loads: when that ends, well or badly
    failure: Failure | None = None
    expires_at: float | None = None  # None until it was idle for the first time
    timer_at: float = math.inf
    leaves_at: float = math.inf
    dead: bool = False
    asks: list[Ask] = field(default_factory=list)

    @property
    def leaving(self) -> bool:
        return self.leaves_at < math.inf

    def shown_expiry(self, now: float) -> float:
        """Before it was idle for the first time, the server shows now plus its duration."""
        return now + self.keep_alive_s if self.expires_at is None else self.expires_at


def resident_bytes(manifest: Manifest, num_ctx: int) -> int:
    """A runner takes more than its file: buffers, and a context that grows with both.

    Fitted to what was measured: 1 MB, 0.4 GB and 2.5 GB files, 1024 and 2048 tokens, within 2 %.
    """
    return round(manifest.size * 1.06 + num_ctx * 3.27 * math.sqrt(manifest.size)) + 120_000


def effective_ctx(options: Options, manifest: Manifest) -> int:
    """Tokens of context: asked for, or the model's own; never more than it was trained with."""
    asked = int(options.get("num_ctx") or manifest.num_ctx)
    return max(4, min(asked, TRAINED_CTX))


def reloads(ask: Ask, runner: Runner) -> bool:
    """Fact 12: whether the request's runner options differ from those that it was loaded with.

    An absent option means its default, except `num_gpu`: without it, any placement will do.
    """
    if effective_ctx(ask.options, ask.manifest) != runner.num_ctx:
        return True
    wanted, there = ask.options, runner.options
    if int(wanted.get("num_gpu", -1)) >= 0 and wanted["num_gpu"] != there.get("num_gpu", -1):
        return True
    if wanted.get("num_batch", DEFAULT_BATCH) != there.get("num_batch", DEFAULT_BATCH):
        return True
    return any(wanted.get(o) != there.get(o) for o in ("main_gpu", "num_thread", "use_mmap"))
