"""What a host was seen to hold."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switcher.domain.model_names import ModelName
from switcher.domain.observed import (
    Installed,
    Observation,
    Resident,
    find_digest,
    find_installed,
    total_vram,
)

NOW = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
A = Resident(ModelName.parse("mid-a"), "sha-a", 1000, 1000, 4096, NOW)
B = Resident(ModelName.parse("mid-b"), "sha-b", 3000, 1500, 4096, NOW)

RESIDENTS = st.builds(
    Resident,
    name=st.text(max_size=8).map(ModelName.parse),
    digest=st.text(max_size=8),
    size=st.integers(0, 2**63 - 1),
    size_vram=st.integers(0, 2**63 - 1),
    context_length=st.integers(0, 10**7),
    expires_at=st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(RESIDENTS)
def test_a_resident_model_is_the_same_after_it_was_written_down(row: Resident) -> None:
    assert Resident.from_json(json.loads(json.dumps(row.to_json()))) == row


@given(
    st.builds(
        Installed,
        st.text().map(ModelName.parse),
        st.text(),
        st.integers(0),
        st.lists(st.text(max_size=4)).map(tuple),
    )
)
def test_an_installed_model_is_the_same_after_it_was_written_down(row: Installed) -> None:
    assert Installed.from_json(json.loads(json.dumps(row.to_json()))) == row


@given(RESIDENTS)
def test_the_share_on_the_gpu_is_a_share(row: Resident) -> None:
    assert 0 <= row.gpu_percent <= 100


@pytest.mark.parametrize(
    ("size", "vram", "percent"), [(1000, 1000, 100), (3000, 1500, 50), (1000, 0, 0), (0, 0, 0)]
)
@pytest.mark.fact(18)
def test_the_share_on_the_gpu_is_of_the_models_bytes(size: int, vram: int, percent: int) -> None:
    assert replace(A, size=size, size_vram=vram).gpu_percent == percent


@pytest.mark.fact(21)
def test_models_are_told_apart_by_digest_and_an_empty_one_is_nobody() -> None:
    same_name = replace(A, digest="sha-other")
    nameless = replace(A, digest="")
    assert find_digest([same_name, A], "sha-a") is A
    assert find_digest([same_name], "sha-a") is None
    assert find_digest([nameless], "") is None


def test_an_installed_model_is_found_by_either_spelling() -> None:
    row = Installed(ModelName.parse("mid-a"), "sha-a", 5)
    assert find_installed([row], ModelName.parse("mid-a")) is row
    assert find_installed([row], ModelName.parse("library/Mid-A:latest")) is row
    assert find_installed([row], ModelName.parse("mid-a:14b")) is None


@pytest.mark.fact(16)
def test_only_what_cannot_complete_embeds_only() -> None:
    def row(*capabilities: str) -> Installed:
        return Installed(ModelName.parse("m"), "d", 1, capabilities)

    assert row("embedding").embeds_only
    assert not row("embedding", "completion").embeds_only
    assert not row().embeds_only


@pytest.mark.fact(7)
def test_what_stays_for_ever_is_told_by_its_date() -> None:
    assert replace(A, expires_at=datetime(2319, 3, 5, tzinfo=UTC)).stays
    assert not A.stays
    assert not replace(A, expires_at=None).stays


def test_memory_counts_where_there_is_no_gpu() -> None:
    assert total_vram([A, B]) == 2500
    assert total_vram([replace(A, size_vram=0), replace(B, size_vram=0)]) == 4000
    assert total_vram([]) == 0


# --- observations ----------------------------------------------------------------------------

SEEN = Observation(NOW, (A,), (Installed(ModelName.parse("mid-a"), "sha-a", 5),), "0.12.3", 7)


@pytest.mark.parametrize(
    "later",
    [
        replace(SEEN, at=NOW + timedelta(seconds=5)),
        replace(SEEN, latency_ms=900),
        replace(SEEN, resident=(replace(A, expires_at=NOW + timedelta(milliseconds=400)),)),
    ],
)
def test_time_latency_and_fractions_of_a_second_are_no_facts(later: Observation) -> None:
    assert SEEN.same_facts(later)
    assert later.same_facts(SEEN)


@pytest.mark.parametrize(
    "other",
    [
        replace(SEEN, error="No connection."),
        replace(SEEN, version="0.12.4"),
        replace(SEEN, resident=()),
        replace(SEEN, resident=(A, B)),
        replace(SEEN, installed=()),
        replace(SEEN, resident=(replace(A, digest="sha-x"),)),
        replace(SEEN, resident=(replace(A, size_vram=0),)),
        replace(SEEN, resident=(replace(A, context_length=8192),)),
        replace(SEEN, resident=(replace(A, expires_at=NOW + timedelta(seconds=1)),)),
        replace(SEEN, resident=(replace(A, expires_at=None),)),
    ],
)
def test_everything_else_is_a_fact(other: Observation) -> None:
    assert not SEEN.same_facts(other)
    assert not other.same_facts(SEEN)


def test_a_time_in_another_zone_is_the_same_time() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=2)))
    assert SEEN.same_facts(replace(SEEN, resident=(replace(A, expires_at=there),)))
