"""How much memory a loaded model takes. Pure: no I/O, no Django.

Resident size ≈ weights + bytes of the KV cache for each token × context × slots + a buffer. What
was seen on a host comes before what is computed from `/api/show`, and that before a guess.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from switcher.domain.versions import Version

# A loaded model takes more than its file, for context and buffers: 1.39 to 1.18 times as much,
# measured on models of 0.4 to 2.5 GB at small contexts. Used only if nothing better is known.
FILE_TO_RESIDENT = 1.2

LEARNED, COMPUTED, GUESSED = "learned", "computed", "guessed"

KV_ELEMENT_BYTES = 2  # f16, the default of OLLAMA_KV_CACHE_TYPE
BATCH = 512  # the default of num_batch
DEFAULT_CONTEXT = 4096
# The server's own default context was smaller at first, and grows with its VRAM since 0.15.5
# (server/routes.go); docs/ollama-versions.md lists both changes.
FIRST_DEFAULT_CONTEXT, DEFAULT_CONTEXT_SINCE = 2048, (0, 6, 7)
CONTEXT_BY_VRAM = ((47 * 2**30, 262_144), (23 * 2**30, 32_768))
CONTEXT_BY_VRAM_SINCE = (0, 15, 5)
CONTEXT_STEP = 1024  # contexts are proposed in whole steps
MAX_SLOTS = 32
# Architectures that run in Ollama's own engine (OllamaEngineRequired in fs/ggml/ggml.go): it counts
# its buffer on a CPU too, and an attention mask of two bytes for each token of batch and context.
OWN_ENGINE = frozenset({
    "deepseek2", "deepseekocr", "gemma3", "gemma3n", "gemma4", "glm4moelite", "glmocr", "gpt-oss",
    "gptoss", "laguna", "lfm2", "lfm2moe", "llama4", "mistral3", "mllama", "nemotron_h",
    "nemotron_h_moe", "nemotron_h_omni", "olmo3", "qwen25vl", "qwen3", "qwen35", "qwen35moe",
    "qwen3moe", "qwen3next", "qwen3vl", "qwen3vlmoe",
})  # fmt: skip
# Architectures for which the server serves one request at a time, whatever it is set to.
ONE_SLOT = frozenset({
    "lfm2", "lfm2moe", "mllama", "nemotron_h", "nemotron_h_moe", "nemotron_h_omni", "qwen35",
    "qwen35moe", "qwen3next", "qwen3vl", "qwen3vlmoe",
})  # fmt: skip
# Which layers have a sliding window, if the file does not say so: all but each n-th. Others keep
# the whole context in each layer, whatever their file says of a window.
FULL_LAYER_EACH = {"gemma3": 6, "gemma3n": 5, "gemma4": 6, "gptoss": 2, "gpt-oss": 2, "olmo3": 4}


@dataclass(frozen=True, slots=True)
class Size:
    """The bytes that a model is expected to take when loaded. `source` says in words how that is
    known, `basis` in one: learned, computed or guessed."""

    bytes: int
    source: str
    basis: str = GUESSED

    @property
    def known(self) -> bool:
        return bool(self.bytes)


NO_MEMORY = Size(0, "it runs elsewhere and takes no memory here", LEARNED)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What decides how much memory a model takes, from `/api/show`. Sizes are bytes."""

    token_bytes: int  # of the KV cache, for each token of the context
    window_bytes: int = 0  # the same for layers that see only the last `window` tokens
    window: int = 0
    buffer_bytes: int = 0  # for one batch
    buffers_on_cpu: bool = False  # whether the server counts the buffer without a GPU too
    trained_context: int = 0  # the most that the server gives; 0 if unknown
    num_ctx: int = 0  # the model's own setting; 0 if it has none
    one_slot: bool = False  # whether the server serves no requests to it in parallel
    file: str = ""  # the digest of its weights, by which the server knows its runner (fact 21)

    def kv_bytes(self, context: int) -> int:
        """Return the bytes of the KV cache for one slot."""
        seen = min(context, self.window + BATCH) if self.window else context
        return self.token_bytes * context + self.window_bytes * seen

    def capped(self, context: int) -> int:
        """Return the context that the server gives for a requested one."""
        return min(context, self.trained_context) if self.trained_context else context

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> ModelFacts:
        return cls(**row)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The size of a model as it was seen loaded with a context length."""

    context: int
    size: int


class NeedsVerbose(Exception):
    """The answer leaves out a list that only a verbose `/api/show` contains."""


def facts_of(info: Mapping[str, Any], num_ctx: int = 0) -> ModelFacts | None:
    """Return the facts of a model from its `model_info`; None if it does not tell enough. Raises
    NeedsVerbose."""
    arch = info.get("general.architecture")

    def number(name: str) -> int:
        value = info.get(f"{arch}.{name}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            return 0
        return int(value) if 0 < value < 2**40 else 0

    blocks, heads = number("block_count"), number("attention.head_count")
    embedding, trained = number("embedding_length"), number("context_length")
    buffer = 4 * BATCH * (4 * embedding + number("vocab_size"))
    if number("pooling_type") or f"{arch}.pooling_type" in info:
        return ModelFacts(0, buffer_bytes=buffer, trained_context=trained, num_ctx=num_ctx)
    kv_heads = _for_each_block(info.get(f"{arch}.attention.head_count_kv", heads), blocks)
    key = number("attention.key_length") or (embedding // heads if heads else 0)
    value = number("attention.value_length") or key
    if not kv_heads or not key or not any(kv_heads):
        return None
    layer_bytes = [n * (key + value) * KV_ELEMENT_BYTES for n in kv_heads]
    window = number("attention.sliding_window")
    slides = _sliding_layers(info, str(arch), blocks) if window else [False] * blocks
    own = arch in OWN_ENGINE
    full_bytes = sum(b for b, s in zip(layer_bytes, slides, strict=True) if not s)
    return ModelFacts(
        token_bytes=full_bytes + (2 * BATCH if own else 0),
        window_bytes=sum(b for b, s in zip(layer_bytes, slides, strict=True) if s),
        window=window,
        buffer_bytes=buffer,
        buffers_on_cpu=own,
        trained_context=trained,
        num_ctx=num_ctx,
        one_slot=arch in ONE_SLOT,
    )


def _for_each_block(value: object, blocks: int) -> list[int]:
    """Return one number for each block from one for all, or from a list."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**20:
        return [value] * blocks if blocks < 10_000 else []
    if not isinstance(value, list):
        return []
    if not value:
        raise NeedsVerbose
    good = [v for v in value if isinstance(v, int) and 0 <= v < 2**20]
    return good if len(good) == blocks else []


def _sliding_layers(info: Mapping[str, Any], arch: str, blocks: int) -> list[bool]:
    pattern = info.get(f"{arch}.attention.sliding_window_pattern")
    if isinstance(pattern, list):
        if not pattern:
            raise NeedsVerbose
        if len(pattern) == blocks:
            return [bool(p) for p in pattern]
    each = pattern if isinstance(pattern, int) and pattern > 0 else FULL_LAYER_EACH.get(arch, 0)
    return [bool(each) and (n + 1) % each != 0 for n in range(blocks)]


def context_given(
    asked: int | None, facts: ModelFacts | None, last: int, vram: int | None, version: Version
) -> int:
    """Return the context length that a load will get: the one asked for, the model's own, the one
    that it had last here when none was asked for (0 if unknown), or the server's default."""
    own = facts.num_ctx if facts else 0
    context = asked or own or last or default_context(vram, version)
    return facts.capped(context) if facts else context


def default_context(vram: int | None, version: Version) -> int:
    """Return the context length that a server of this version gives if it is told none. A version
    that is not known counts as a new one."""
    if version and version < DEFAULT_CONTEXT_SINCE:
        return FIRST_DEFAULT_CONTEXT
    if version and version < CONTEXT_BY_VRAM_SINCE:
        return DEFAULT_CONTEXT
    return next((c for least, c in CONTEXT_BY_VRAM if vram and vram >= least), DEFAULT_CONTEXT)


def expected_size(
    context: int,
    file_bytes: int,
    facts: ModelFacts | None,
    seen: Iterable[Loaded],
    on_gpu: bool = True,
    slots: int = 0,
) -> Size:
    """Return the bytes that a model will take with this context. `seen` are its loads here, the
    newest first. `slots` are the parallel requests that the server is set to; 0 if unknown."""
    rows = [row for row in seen if row.context and row.size]
    exact = next((row for row in rows if row.context == context), None)
    if exact is not None:
        return Size(exact.size, f"as loaded here with {context:,} tokens", LEARNED)
    if rows and facts is not None:
        near = min(rows, key=lambda row: abs(row.context - context))
        grows = facts.kv_bytes(context) - facts.kv_bytes(near.context)
        size = near.size + grows * _slots(rows, near, file_bytes, facts, slots)
        return Size(max(size, 1), f"as loaded here with {near.context:,} tokens, and computed from "
                    f"there for {context:,}", LEARNED)  # fmt: skip
    contexts = sorted({row.context: row for row in rows}.values(), key=lambda row: row.context)
    if len(contexts) > 1:
        a, b = sorted(sorted(contexts, key=lambda r: abs(r.context - context))[:2],
                      key=lambda r: r.context)  # fmt: skip
        slope = (b.size - a.size) / (b.context - a.context)
        size = round(a.size + slope * (context - a.context))
        return Size(max(size, 1), f"from {len(contexts)} loads here with other contexts", LEARNED)
    if facts is not None:
        buffer = facts.buffer_bytes if on_gpu or facts.buffers_on_cpu else 0
        size = file_bytes + facts.kv_bytes(context) * _slots_set(facts, slots) + buffer
        return Size(size, f"computed for {context:,} tokens of context", COMPUTED)
    guess = max(round(file_bytes * FILE_TO_RESIDENT), *(row.size for row in rows), 0)
    return Size(guess, "about, from the size of its file", GUESSED)


def _slots_set(facts: ModelFacts, slots: int) -> int:
    return 1 if facts.one_slot else _bounded(slots)


def _slots(rows: list[Loaded], near: Loaded, file_bytes: int, facts: ModelFacts, slots: int) -> int:
    """Return for how many parallel requests the server keeps a context each. Two contexts that were
    seen tell exactly; else it is what the server is set to. From one, a cache that is small beside
    weights and buffer tells nothing."""
    least, most = min(rows, key=_context), max(rows, key=_context)
    grows = facts.kv_bytes(most.context) - facts.kv_bytes(least.context)
    if grows > 0:
        return _bounded(round((most.size - least.size) / grows))
    if slots:
        return _slots_set(facts, slots)
    one, rest = facts.kv_bytes(near.context), near.size - file_bytes - facts.buffer_bytes
    return 1 if one * 4 < file_bytes else _bounded(math.floor(rest / one + 0.3))


def _context(row: Loaded) -> int:
    return row.context


def _bounded(slots: int) -> int:
    return min(MAX_SLOTS, max(1, slots))


def largest_context(
    room_bytes: int,
    below: int,
    file_bytes: int,
    facts: ModelFacts | None,
    seen: Iterable[Loaded],
    slots: int = 0,
) -> int:
    """Return the largest context below `below`, in whole steps, with which the model takes no more
    than `room_bytes`; 0 if there is none, or if that cannot be told."""
    rows = list(seen)
    if facts is None and len({row.context for row in rows}) < 2:
        return 0
    low, high = 0, max(0, (below - 1) // CONTEXT_STEP)
    while low < high:
        middle = (low + high + 1) // 2
        size = expected_size(middle * CONTEXT_STEP, file_bytes, facts, rows, slots=slots)
        low, high = (middle, high) if size.bytes <= room_bytes else (low, middle - 1)
    return low * CONTEXT_STEP
