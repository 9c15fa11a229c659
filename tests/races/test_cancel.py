"""A cancel from each entrance: seen in mid-load, the old model back and seen there."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client

from switcher.domain.errors import Conflict
from switcher.domain.states import State
from switcher.management import following
from switcher.management.commands import switch as command
from switcher.models import AuditEntry, SwitchEvent
from switcher.switching import service
from switcher.switching.worker import Worker
from tests.races.conftest import ANNA, BEN, World
from tests.records.conftest import at_once
from tests.until import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_databases]

SignIn = Callable[[str], Client]


def by_page(world: World, asked: int, sign_in: SignIn) -> None:
    assert sign_in("olga").post(f"/switches/{asked}/cancel").status_code == 302


def by_htmx(world: World, asked: int, sign_in: SignIn) -> None:
    headers = {"HX-Request": "true"}
    assert sign_in("olga").post(f"/switches/{asked}/cancel", headers=headers).status_code == 200


def by_api(world: World, asked: int, sign_in: SignIn) -> None:
    assert sign_in("olga").delete(f"/ollama/switches/{asked}").status_code == 202


@pytest.mark.parametrize("cancel", [by_page, by_htmx, by_api])
@pytest.mark.parametrize("strategy", ["overlap", "swap"])
def test_a_cancel_is_seen_in_mid_load_and_the_old_model_is_back(
    world: World, worker: Worker, sign_in: SignIn, cancel: Any, strategy: str
) -> None:
    sign_in("olga")
    world.slow("mid-b")
    asked = world.ask("mid-b", strategy=strategy)
    world.until_loading("mid-b")
    cancel(world, asked, sign_in)
    check_cancelled(world, world.ended(asked), by="olga")


def check_cancelled(world: World, row: SwitchEvent, by: str) -> None:
    assert (row.state, row.error_code) == (State.CANCELLED, "cancelled")
    assert row.error == f"{by} cancelled the switch."
    assert [r["name"] for r in row.after or ()] == ["mid-a:latest"], "read after it was restored"
    assert "mid-a" in row.outcome
    (entry,) = AuditEntry.objects.filter(switch=row, kind="switch.cancel-asked")
    assert entry.actor == by
    assert not world.ollama.is_loading("mid-b")
    world.check_truth()


@pytest.mark.parametrize("who_runs_it", ["a server", "the command itself"])
def test_ctrl_c_in_the_command_asks_once_and_cancels(
    world: World,
    start: Callable[[], Worker],
    monkeypatch: pytest.MonkeyPatch,
    who_runs_it: str,
) -> None:
    if who_runs_it == "a server":
        monkeypatch.setattr(following, "CLAIM_INTERVAL_S", 60.0)
        start()
    else:
        monkeypatch.setattr(following, "CLAIM_INTERVAL_S", 0.02)
    world.slow("mid-b")
    asked = terminal_that_answers(monkeypatch, "c")
    press_ctrl_c_while_it_loads(world, monkeypatch)
    out = io.StringIO()
    with pytest.raises(SystemExit) as ended:
        call_command("switch", "mid-b", "--strategy", "swap", stdout=out)
    assert ended.value.code == 3
    assert len(asked) == 1
    other = "leave it running (l)" if who_runs_it == "a server" else "go on (g)"
    assert asked[0].strip() == f"Cancel (c) or {other}?"
    row = SwitchEvent.objects.latest("pk")
    assert "the old model is being restored" in out.getvalue()
    check_cancelled(world, row, by=row.actor)


def terminal_that_answers(monkeypatch: pytest.MonkeyPatch, text: str) -> list[str]:
    asked: list[str] = []

    class Terminal:
        def isatty(self) -> bool:
            return True

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return text

    monkeypatch.setattr(command.sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", ask)
    return asked


def press_ctrl_c_while_it_loads(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    show, pressed = following.Screen.show, []

    def press(self: following.Screen, row: Any) -> None:
        show(self, row)
        if not pressed and row.state is State.LOADING and world.ollama.is_loading("mid-b"):
            pressed.append(row.state)
            raise KeyboardInterrupt

    monkeypatch.setattr(following.Screen, "show", press)


def test_two_that_cancel_at_once_are_one_cancel(world: World, worker: Worker) -> None:
    world.slow("mid-b")
    asked = world.ask("mid-b")
    world.until_loading("mid-b")
    results = at_once(*(partial(service.cancel, asked, who) for who in (ANNA, BEN, ANNA, BEN)))
    assert not [r for r in results if isinstance(r, Exception) and not isinstance(r, Conflict)]
    row = world.ended(asked)
    check_cancelled(world, row, by=row.cancel_asked_by)


def test_a_cancel_that_races_with_the_end_is_one_or_the_other(world: World, worker: Worker) -> None:
    """Whatever was answered, the record and the host agree."""
    for n in range(6):
        tag = other_model(world)
        asked = world.ask(tag)
        phases = ("checking", "loading", "warming", "verifying", "activating", "unloading")

        def reached(asked: int = asked, n: int = n, phases: tuple[str, ...] = phases) -> bool:
            row = world.row(asked)
            return bool(row.ended_at) or phases[n] in [p["phase"] for p in row.phases]

        until(reached)
        try:
            service.cancel(asked, BEN)
            taken = True
        except Conflict:
            taken = False
        row = world.ended(asked)
        assert row.state in (State.ACTIVE, State.CANCELLED)
        assert taken or row.state == State.ACTIVE
        world.check_truth()


def other_model(world: World) -> str:
    """The one of the two that is not active."""
    world.host.refresh_from_db()
    return "mid-a" if world.host.active_tag == "mid-b" else "mid-b"
