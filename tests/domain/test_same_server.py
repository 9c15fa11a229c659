"""Recognising one server at two addresses, from readings alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from switcher.domain.model_names import ModelName
from switcher.domain.observed import Observation, Resident
from switcher.domain.same_server import MATCH_VALID_S, SameServers

NORTH, SOUTH = 1, 2
AT = datetime(2026, 11, 23, 9, tzinfo=UTC)
ROW = Resident(ModelName.parse("mid-a"), "aa", 5, 5, 4096, AT)
FILES = frozenset({("aa", "2026-11-01T10:00:00.123456789Z")})


def until(nanoseconds: int) -> Observation:
    loads = frozenset({("aa", f"2026-11-23T09:30:00.{nanoseconds:09}+01:00")})
    return Observation(AT, (ROW,), catalog=FILES, loads=loads)


IDLE = Observation(AT, catalog=FILES)


@pytest.fixture
def servers() -> SameServers:
    return SameServers()


def read(servers: SameServers, now_s: float, north: Observation, south: Observation) -> None:
    servers.add(NORTH, north, now_s)
    servers.add(SOUTH, south, now_s + 0.1)


def match(servers: SameServers) -> None:
    for turn in range(3):
        read(servers, turn * 2.5, until(7), until(7))
    assert servers.same_as(NORTH, 6.0) == {SOUTH}
    assert servers.same_as(SOUTH, 6.0) == {NORTH}


def test_the_same_nanosecond_in_two_readings_is_one_server(servers: SameServers) -> None:
    read(servers, 0.0, until(7), until(7))
    assert servers.same_as(NORTH, 0.1) is None  # too early to say
    match(servers)


def test_a_server_that_answers_requests_meanwhile_is_recognised(servers: SameServers) -> None:
    for turn in range(4):
        read(servers, turn * 2.5, until(turn), until(turn))
    assert servers.same_as(NORTH, 8.0) == {SOUTH}


def test_two_servers_that_share_their_files_are_two(servers: SameServers) -> None:
    for turn in range(4):
        read(servers, turn * 2.5, until(7), until(8))
    assert servers.same_as(NORTH, 8.0) == frozenset()
    for turn in range(4):
        read(servers, 10 + turn * 2.5, IDLE, IDLE)
    assert servers.same_as(NORTH, 18.0) == frozenset()


def test_one_match_proves_nothing(servers: SameServers) -> None:
    read(servers, 0.0, until(7), until(7))
    for turn in range(1, 4):
        read(servers, turn * 2.5, until(8), until(9))
    assert servers.same_as(NORTH, 8.0) == frozenset()


def test_it_stays_one_server_while_nothing_is_loaded(servers: SameServers) -> None:
    match(servers)
    for turn in range(1, 40):
        read(servers, 6 + turn * 2.5, IDLE, IDLE)
    assert servers.same_as(NORTH, 104.0) == {SOUTH}
    read(servers, 105.0, until(8), IDLE)
    assert servers.same_as(NORTH, 106.0) == frozenset()


def test_it_is_two_servers_again_once_their_loads_differ(servers: SameServers) -> None:
    match(servers)
    for turn in range(1, 20):
        read(servers, 6 + turn * 2.5, until(8), until(9))
    assert servers.same_as(NORTH, 6 + MATCH_VALID_S + 2.5) == frozenset()


def test_a_host_that_does_not_answer_changes_nothing(servers: SameServers) -> None:
    match(servers)
    servers.add(SOUTH, replace(IDLE, error="away"), 7.0)
    assert servers.same_as(NORTH, 7.0) == {SOUTH}


def test_a_removed_host_is_no_other_server(servers: SameServers) -> None:
    match(servers)
    servers.forget(SOUTH)
    assert servers.same_as(NORTH, 6.0) == frozenset()
