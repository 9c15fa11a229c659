"""`script/faultlab`, as a person or a pipeline runs it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faultlab import invariants
from tests.faultlab.__main__ import main
from tests.faultlab.conftest import put_back
from tests.faultlab.world import World


@pytest.fixture(autouse=True)
def own_database(django_db_blocker: Any) -> Iterator[None]:
    """Undo what the command does to its process: it replaces the database and silences the log."""
    level = logging.getLogger("switcher").level
    with django_db_blocker.unblock(), put_back():
        yield
    logging.getLogger("switcher").setLevel(level)


def run(capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[str]]:
    """Run the command; return its exit code and its output."""
    try:
        code = main(list(options))
    except SystemExit as exc:
        code = int(str(exc.code))
    written = capsys.readouterr()
    return code, (written.out + written.err).splitlines()


def test_the_last_line_is_json_with_schedules_and_violations(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, lines = run(capsys, "--seed", "5", "--schedules", "3", "--jobs", "1")
    last = json.loads(lines[-1])
    assert code == 0
    assert (last["seed"], last["schedules"], last["violations"]) == (5, 3, 0)
    assert sum(last["ends"].values()) >= 3
    assert lines[0].split() == [
        *("schedules", "active", "rolled_back", "failed", "cancelled", "violations", "time")
    ]
    assert len(lines) > 2, "the table tells how far it is"


def test_a_violation_is_told_with_how_to_see_it_again_and_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find(world: World) -> list[Any]:
        if world.schedule.number == 1:
            world.violate("planted", "as a test")
        return world.violations

    monkeypatch.setattr(invariants, "check", find)
    code, lines = run(capsys, "--seed", "5", "--schedules", "3", "--jobs", "1")
    last = json.loads(lines[-1])
    assert (code, last["violations"], last["rules"]) == (1, 1, {"planted": 1})
    assert last["broken"] == [1]
    assert "Schedule 1 is broken; see it with --seed 5 --replay 1" in lines


def test_a_replay_shows_the_same_run_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (run(capsys, "--seed", "5", "--replay", "2") for _ in range(2))
    assert first == second
    code, lines = first
    assert code == 0
    assert json.loads(lines[-1]) == {"seed": 5, "number": 2, "violations": 0}
    assert any("takes up switch" in line for line in lines)


def test_numbers_that_mean_nothing_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys, "--schedules", "0")
    assert code == 2
    assert "at least 1" in lines[-1]
