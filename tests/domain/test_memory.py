"""How much memory a model is expected to take: learned, computed or guessed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switcher.domain.memory import (
    COMPUTED,
    GUESSED,
    LEARNED,
    Loaded,
    ModelFacts,
    NeedsVerbose,
    context_given,
    expected_size,
    facts_of,
    largest_context,
)
from switcher.domain.versions import numbers_of

GB = 1_000_000_000
# As a real server describes its models; sizes were measured there (bench/memory.py).
MID = {
    "general.architecture": "llama",
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 4,
    "llama.block_count": 6,
    "llama.context_length": 4096,
    "llama.embedding_length": 2048,
    "llama.vocab_size": 443,
}


def facts(info: dict[str, Any], **more: Any) -> ModelFacts:
    found = facts_of(info | more)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("file_bytes", "blocks", "embedding", "context", "measured"),
    [
        (507_065_536, 6, 2048, 2048, 605_900_800),
        (507_065_536, 6, 2048, 4096, 706_564_096),
        (289_920, 2, 64, 2048, 1_270_400),
        (289_920, 2, 64, 4096, 2_318_976),
        (896_128, 2, 128, 2048, 2_868_480),
        (896_128, 2, 128, 4096, 4_965_632),
    ],
)
def test_what_is_computed_is_near_what_a_server_without_a_gpu_reports(
    file_bytes: int, blocks: int, embedding: int, context: int, measured: int
) -> None:
    shape = {"llama.block_count": blocks, "llama.embedding_length": embedding}
    size = expected_size(context, file_bytes, facts(MID | shape), (), on_gpu=False)
    assert size.basis == COMPUTED
    assert size.bytes == pytest.approx(measured, rel=0.06)


def test_grouped_heads_and_their_lengths_count() -> None:
    """Qwen2.5 14B: 48 blocks, 8 KV heads of 128, so 196,608 bytes a token."""
    info = {
        "general.architecture": "qwen2",
        "qwen2.attention.head_count": 40,
        "qwen2.attention.head_count_kv": 8,
        "qwen2.block_count": 48,
        "qwen2.embedding_length": 5120,
        "qwen2.context_length": 32_768,
    }
    assert facts(info).kv_bytes(1) == 48 * 8 * (128 + 128) * 2
    longer = {"qwen2.attention.key_length": 192, "qwen2.attention.value_length": 128}
    assert facts(info | longer).kv_bytes(1) == 48 * 8 * (192 + 128) * 2


def test_a_list_gives_each_block_its_own_heads() -> None:
    """As in hybrid models, whose recurrent blocks have no KV heads."""
    lists = {"llama.attention.head_count_kv": [0, 4, 0, 4, 0, 4]}
    assert facts(MID | lists).kv_bytes(1) == facts(MID).kv_bytes(1) // 2


def test_a_list_that_was_left_out_has_to_be_asked_for() -> None:
    with pytest.raises(NeedsVerbose):
        facts_of(MID | {"llama.attention.head_count_kv": []})
    window = {"llama.attention.sliding_window": 512}
    with pytest.raises(NeedsVerbose):
        facts_of(MID | window | {"llama.attention.sliding_window_pattern": []})


def test_layers_with_a_sliding_window_take_no_more_than_that() -> None:
    """Gemma 3: five of six layers see 1,024 tokens."""
    info = {k.replace("llama", "gemma3"): v for k, v in MID.items()}
    info |= {"general.architecture": "gemma3", "gemma3.attention.sliding_window": 1024}
    found = facts(info)
    per_layer, mask = 4 * (512 + 512) * 2, 2 * 512
    assert (found.token_bytes, found.window_bytes) == (per_layer + mask, 5 * per_layer)
    assert found.kv_bytes(32_768) == ((per_layer + mask) * 32_768 + 5 * per_layer * (1024 + 512))
    pattern = [True, False] * 3
    assert facts(info, **{"gemma3.attention.sliding_window_pattern": pattern}).token_bytes == (
        3 * per_layer + mask
    )


def test_a_window_that_the_server_does_not_use_saves_nothing() -> None:
    """Measured on Gemma 2: each layer keeps the whole context."""
    info = {k.replace("llama", "gemma2"): v for k, v in MID.items()}
    info |= {"general.architecture": "gemma2", "gemma2.attention.sliding_window": 1024}
    assert facts(info).kv_bytes(32_768) == facts(MID).kv_bytes(32_768)


# Measured on Ollama 0.25 without a GPU: file, KV heads, sizes at 2,048, 8,192 and 32,768 tokens.
# Each model has 8 blocks, keys and values of 64, an embedding of 512 and a vocabulary of 353.
MEASURED = {
    "llama": (42_713_440, 8, (75_893_760, 176_557_056, 579_210_240)),
    "qwen2": (36_447_744, 2, (44_461_056, 69_626_880, 170_290_176)),
    "qwen3": (36_426_976, 2, (56_336_384, 86_745_088, 212_574_208)),
    "gemma2": (38_191_520, 4, (54_955_008, 105_286_656, 306_613_248)),
    "gemma3": (38_196_416, 4, (62_660_608, 72_097_792, 122_429_440)),
}


@pytest.mark.fact(31)
@pytest.mark.parametrize("arch", list(MEASURED))
def test_what_is_computed_is_near_what_a_server_reports_for_each_architecture(arch: str) -> None:
    file_bytes, heads, sizes = MEASURED[arch]
    found = facts_of(
        {
            "general.architecture": arch,
            f"{arch}.attention.head_count": 8,
            f"{arch}.attention.head_count_kv": heads,
            f"{arch}.attention.key_length": 64,
            f"{arch}.attention.value_length": 64,
            f"{arch}.attention.sliding_window": 1024 if "gemma" in arch else 0,
            f"{arch}.block_count": 8,
            f"{arch}.context_length": 131_072,
            f"{arch}.embedding_length": 512,
            f"{arch}.vocab_size": 353,
        }
    )
    contexts = (2048, 8192, 32_768)
    computed = [expected_size(c, file_bytes, found, (), on_gpu=False).bytes for c in contexts]
    assert computed == pytest.approx(sizes, rel=0.1)
    seen = [Loaded(2048, sizes[0])]
    learned = [expected_size(c, file_bytes, found, seen).bytes for c in contexts]
    assert learned == pytest.approx(sizes, rel=0.05)


def test_one_load_of_a_server_with_four_slots_tells_the_others() -> None:
    """Measured with OLLAMA_NUM_PARALLEL=4."""
    found = ModelFacts(16_384, buffer_bytes=4_917_248)
    seen = [Loaded(2048, 176_557_056)]
    size = expected_size(32_768, 42_713_440, found, seen)
    assert size.bytes == pytest.approx(2_189_822_976, rel=0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"llama.block_count": 0},
        {"llama.block_count": "6"},
        {"llama.attention.head_count": 0, "llama.attention.head_count_kv": None},
        {"llama.attention.head_count_kv": -1},
        {"llama.attention.head_count_kv": [4, 4]},
        {"llama.attention.head_count_kv": ["4"] * 6},
        {"llama.embedding_length": None},
        {"general.architecture": None},
        {"general.architecture": "other"},
    ],
    ids=repr,
)
def test_a_description_that_does_not_tell_enough_is_none(change: dict[str, Any]) -> None:
    assert facts_of(MID | change) is None


def test_an_embedding_model_keeps_no_cache() -> None:
    info = {"general.architecture": "bert", "bert.pooling_type": 1, "bert.context_length": 512}
    assert facts(info).kv_bytes(512) == 0


# --- what was seen comes first ---------------------------------------------------------------

FACTS = ModelFacts(token_bytes=400_000, trained_context=262_144)


def test_a_load_with_the_same_context_is_what_is_expected() -> None:
    size = expected_size(32_768, 18 * GB, FACTS, [Loaded(32_768, 31 * GB)])
    assert (size.bytes, size.basis) == (31 * GB, LEARNED)


def test_from_a_load_with_another_context_the_cache_is_computed() -> None:
    """18.6 GB of weights took 31 GB at 32,768 tokens and 122.9 GB at 262,144."""
    seen = [Loaded(32_768, 31_000_000_000)]
    size = expected_size(262_144, 18_600_000_000, FACTS, seen)
    assert size.basis == LEARNED
    assert size.bytes == pytest.approx(122.9 * GB, rel=0.01)


def test_a_load_shows_how_many_requests_are_served_in_parallel() -> None:
    four = [Loaded(4096, 2 * GB + 4 * FACTS.kv_bytes(4096))]
    size = expected_size(8192, 2 * GB, FACTS, four)
    assert size.bytes == 2 * GB + 4 * FACTS.kv_bytes(8192)


def test_each_parallel_request_takes_a_context_of_its_own() -> None:
    one, four = (expected_size(8192, 2 * GB, FACTS, (), slots=n) for n in (1, 4))
    assert four.bytes - one.bytes == 3 * FACTS.kv_bytes(8192)
    assert expected_size(8192, 2 * GB, FACTS, ()) == one, "the server's default is one"
    small = [Loaded(1024, 20 * GB)]  # which shows nothing of its cache
    grown = expected_size(8192, 20 * GB, FACTS, small, slots=4)
    assert grown.bytes == 20 * GB + 4 * (FACTS.kv_bytes(8192) - FACTS.kv_bytes(1024))
    room = 2 * GB + 4 * FACTS.kv_bytes(8192) + FACTS.buffer_bytes
    assert largest_context(room, 65_536, 2 * GB, FACTS, (), slots=4) == 8192


def test_two_loads_count_more_than_the_parallel_requests_that_are_set() -> None:
    seen = [Loaded(n, 2 * GB + FACTS.kv_bytes(n)) for n in (4096, 8192)]
    size = expected_size(16_384, 2 * GB, FACTS, seen, slots=4)
    assert size.bytes == 2 * GB + FACTS.kv_bytes(16_384)


def test_some_architectures_serve_one_request_at_a_time_whatever_is_set() -> None:
    facts = replace(FACTS, one_slot=True)
    assert expected_size(8192, 2 * GB, facts, (), slots=4).bytes == (
        expected_size(8192, 2 * GB, FACTS, ()).bytes
    )
    info = {"general.architecture": "qwen35", "qwen35.block_count": 2,
            "qwen35.attention.head_count": 2, "qwen35.embedding_length": 64}  # fmt: skip
    found = facts_of(info)
    assert found is not None
    assert found.one_slot


def test_two_loads_tell_without_a_description() -> None:
    seen = [Loaded(4096, 6 * GB), Loaded(8192, 8 * GB)]
    size = expected_size(16_384, 5 * GB, None, seen)
    assert (size.bytes, size.basis) == (12 * GB, LEARNED)


def test_without_anything_the_file_is_a_guess() -> None:
    size = expected_size(4096, 5 * GB, None, ())
    assert (size.bytes, size.basis) == (6 * GB, GUESSED)


# --- contexts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "own", "last", "vram", "given"),
    [
        (8192, 0, 0, None, 8192),
        (200_000, 0, 0, None, 131_072),
        (None, 16_384, 2048, None, 16_384),
        (None, 0, 2048, None, 2048),
        (None, 0, 0, None, 4096),
        (None, 0, 0, 24 * 2**30, 32_768),
        (None, 0, 0, 80 * 2**30, 131_072),
    ],
)
def test_the_context_is_the_one_that_the_server_will_give(
    asked: int | None, own: int, last: int, vram: int | None, given: int
) -> None:
    known = ModelFacts(1, trained_context=131_072, num_ctx=own)
    assert context_given(asked, known, last, vram, (0, 31, 2)) == given


@pytest.mark.parametrize(
    ("version", "of_48_gb", "of_8_gb"),
    [
        ("0.6.6", 2048, 2048),
        ("0.6.7", 4096, 4096),
        ("0.9.6", 4096, 4096),
        ("0.15.4", 4096, 4096),
        ("0.15.5", 262_144, 4096),
        ("0.0.0", 262_144, 4096),
        ("", 262_144, 4096),
    ],
)
def test_the_default_context_is_that_of_the_servers_version(
    version: str, of_48_gb: int, of_8_gb: int
) -> None:
    numbers = numbers_of(version)
    assert context_given(None, None, 0, 48 * 2**30, numbers) == of_48_gb
    assert context_given(None, None, 0, 8 * 2**30, numbers) == of_8_gb


def test_the_largest_context_that_fits_is_found() -> None:
    room = 18 * GB + FACTS.kv_bytes(49_152) + 1000
    assert largest_context(room, 131_072, 18 * GB, FACTS, ()) == 49_152
    assert largest_context(17 * GB, 131_072, 18 * GB, FACTS, ()) == 0
    assert largest_context(room, 131_072, 18 * GB, None, ()) == 0, "it cannot be told"


@given(st.integers(0, 10**12), st.integers(1024, 10**6), st.integers(10**6, 10**11))
def test_what_is_proposed_fits_and_is_less(room: int, below: int, file_bytes: int) -> None:
    found = largest_context(room, below, file_bytes, FACTS, ())
    assert found < below
    assert not found or expected_size(found, file_bytes, FACTS, ()).bytes <= room


def test_two_loads_tell_how_many_slots_there_are_exactly() -> None:
    found = ModelFacts(4096, buffer_bytes=4_917_248)
    seen = [Loaded(2048, 69_626_880), Loaded(8192, 170_290_176)]
    size = expected_size(32_768, 36_447_744, found, seen)
    assert size.bytes == pytest.approx(572_943_360, rel=0.01)
