"""The scheduler's data: a host's configuration, requests and loaded models. No I/O."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ollama_simulator.catalog import TRAINED_CTX, Manifest
from ollama_simulator.versions import NEWEST, Version, read_version

# Fact 12: options that reload the model when they differ.
RUNNER_OPTIONS = (
    *("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "draft_num_predict"),
    "use_mmap",
)
# All options, with Go's name for the type; unknown ones are ignored.
OPTION_TYPES = {
    **dict.fromkeys(RUNNER_OPTIONS[:6], "integer"),
    "use_mmap": "boolean",
    **dict.fromkeys(("num_keep", "seed", "num_predict", "top_k", "repeat_last_n"), "integer"),
    **dict.fromkeys(("top_p", "min_p", "typical_p", "temperature"), "float32"),
    **dict.fromkeys(("repeat_penalty", "presence_penalty", "frequency_penalty"), "float32"),
    "stop": "array",
}
DEFAULT_BATCH = 512
BLOCKS = 32
LAYERS = 33  # layers, which num_gpu counts
ON_CPU = 0.1  # share of its speed that a model keeps with none of it in VRAM
Options = Mapping[str, int | bool]


@dataclass(frozen=True, slots=True)
class Config:
    """A host's configuration. Sizes in bytes, rates per second, times in seconds."""

    vram: int = 24_000_000_000  # 0: no GPU
    load_rate: float = 2_000_000_000
    tokens_per_s: float = 60.0
    max_loaded: int = 0  # 0: three, the default of servers with at most one GPU
    max_queue: int = 512
    parallel: int = 1  # replies that one model generates at once; other requests wait
    default_keep_alive_s: float = 300.0
    headroom: float = 0.8  # share of the free VRAM that another model may use before one is evicted
    unload_s: float = 0.02  # fact 27: how long an unload takes
    prompt_s: float = 0.02
    embed_s: float = 0.01
    copy_gap_s: float = 0.0003  # fact 26: how long a name stays empty while it is copied
    as_version: str = ""  # acts as this version of Ollama; otherwise as the newest

    @property
    def most_loaded(self) -> int:
        return self.max_loaded or 3

    @property
    def version(self) -> Version:
        return read_version(self.as_version) if self.as_version else NEWEST


@dataclass(frozen=True, slots=True)
class Failure:
    """A failing load: after `after_s` seconds, with this response.

    `evict_all` means out of memory (fact 15): all other models are unloaded and the load is retried
    once, which `recovers` or fails for good.
    """

    status: int
    text: str
    after_s: float = 0.0
    evict_all: bool = False
    recovers: bool = False


class Fate(Protocol):
    """Decides about failures: it is asked when a load begins or an unload is requested."""

    def load_failure(self, name: str) -> Failure | None: ...
    def vram_share(self, name: str) -> float | None: ...
    def load_factor(self, name: str) -> float: ...
    def ignores_unload(self, name: str) -> bool: ...


class KindFate:
    """A `Fate` under which nothing fails."""

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
    """A request that needs a model, from arrival to end; the caller's handle to it.

    `state` goes queued → loading → waiting → running → done, failed or gone (the client left);
    `waiting` means that the model is loaded but all its slots are taken. `tokens` 0 only loads.
    `breaks_after` is how many tokens come before the reply ends without `done` or, with `cuts`,
    before the connection is cut.
    """

    name: str
    manifest: Manifest
    options: Options = field(default_factory=dict)
    keep_alive_s: float | None = None
    shift: bool = True  # whether a reply that fills the context goes on
    tokens: int = 0
    work_s: float | None = None  # seconds, instead of tokens and their rate
    asked_at: float = 0.0
    state: str = "queued"
    reason: str = ""  # done_reason: load, unload, stop, length
    status: int = 200
    error: str = ""
    running_at: float = math.inf
    started_at: float = math.inf
    ends_at: float = math.inf
    tokens_per_s: float = 0.0
    prompt_s: float = 0.0
    breaks_after: int | None = None
    cuts: bool = False
    cut: bool = False  # the connection broke before or during the response
    failure: Failure | None = None  # its first attempt, if it is retried
    on_change: Callable[[], None] | None = None

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed", "gone")

    @property
    def broken(self) -> bool:
        """Return whether the reply has status 200 but ends without `done: true` (fact 10)."""
        return self.breaks_after is not None and not self.cuts

    @property
    def said(self) -> int:
        """Return how many tokens the reply has before it ends."""
        return self.tokens if self.breaks_after is None else self.breaks_after

    @property
    def load_s(self) -> float:
        """Return the seconds from arrival until a runner took the request: waiting and loading."""
        return max(0.0, self.running_at - self.asked_at) if self.running_at < math.inf else 0.0

    def due_at(self, token: int) -> float:
        """Return when token number `token`, counted from 1, is due; infinity if not running."""
        if not self.tokens_per_s:
            return self.started_at
        return self.started_at + self.prompt_s + token / self.tokens_per_s

    def told(self, state: str) -> None:
        self.state = state
        if self.on_change is not None:
            self.on_change()


@dataclass(eq=False, slots=True)
class Runner:
    """A model in memory, identified by its file (fact 21). Sizes in bytes, times in seconds.

    `name` is the one it was first loaded by. `expires_at` is what `/api/ps` shows: it does not
    change while requests run, and only `timer_at` unloads the runner.
    """

    name: str
    manifest: Manifest
    options: Options
    num_ctx: int
    size: int
    size_vram: int
    tokens_per_s: float
    keep_alive_s: float
    shift: bool = True
    ready_at: float = math.inf  # while loading: when that ends, successfully or not
    failure: Failure | None = None
    expires_at: float | None = None  # None until first idle
    timer_at: float = math.inf
    leaves_at: float = math.inf
    dead: bool = False
    asks: list[Ask] = field(default_factory=list)

    @property
    def leaving(self) -> bool:
        return self.leaves_at < math.inf

    def shown_expiry(self, now: float) -> float:
        """Return the expiry shown: until the runner is first idle, now plus its keep-alive."""
        return now + self.keep_alive_s if self.expires_at is None else self.expires_at


def resident_bytes(manifest: Manifest, num_ctx: int) -> int:
    """Estimate a runner's memory: its file, buffers, and a context that grows with both.

    Fitted to measurements: 1 MB, 0.4 GB and 2.5 GB files, 1024 and 2048 tokens, within 2 %.
    """
    return round(manifest.size * 1.06 + num_ctx * 3.27 * math.sqrt(manifest.size)) + 120_000


def head_length(manifest: Manifest) -> int:
    """Return the length of a key and of a value, by which `resident_bytes` grows with the context:
    two bytes for each of them, in each block."""
    return max(1, round(3.27 * math.sqrt(manifest.size) / (4 * BLOCKS)))


def effective_ctx(options: Options, manifest: Manifest) -> int:
    """Return the context length: the requested or the model's own, at most the trained one."""
    asked = int(options.get("num_ctx") or manifest.num_ctx)
    return max(4, min(asked, TRAINED_CTX))


def reloads(ask: Ask, runner: Runner) -> bool:
    """Return whether a request's runner options or `shift` require a reload (fact 12).

    An absent option means its default, except `num_gpu`: without it, any placement is fine.
    """
    if effective_ctx(ask.options, ask.manifest) != runner.num_ctx or ask.shift != runner.shift:
        return True
    wanted, there = ask.options, runner.options
    if int(wanted.get("num_gpu", -1)) >= 0 and wanted["num_gpu"] != there.get("num_gpu", -1):
        return True
    if wanted.get("num_batch", DEFAULT_BATCH) != there.get("num_batch", DEFAULT_BATCH):
        return True
    return any(wanted.get(o) != there.get(o) for o in RUNNER_OPTIONS[3:])
