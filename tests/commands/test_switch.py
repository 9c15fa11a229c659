from __future__ import annotations

import os
import pwd
import subprocess
import sys
import threading
from typing import Any

import pytest
from django.db import connections

from switcher.domain.specs import Spec
from switcher.management import following
from switcher.management.commands import switch as command
from switcher.models import Host, SwitchEvent
from switcher.records import config, switches
from switcher.records.switches import ResolvedRequest
from switcher.switching import service
from tests.commands.conftest import ADMIN, run
from tests.simulated import SimulatedOllama


def test_without_a_server_it_runs_the_switch_itself(host: Host, simulator: SimulatedOllama) -> None:
    ran = run("switch", "mid-a", "--reason", "because")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].startswith("mid-a on tower (switch ")
    assert [line.split()[0] for line in lines[1:4]] == ["checking", "loading", "warming"]
    assert lines[-1].startswith("mid-a is active on tower.")
    assert simulator.resident() == {"mid-a"}
    row = SwitchEvent.objects.get()
    assert row.actor == pwd.getpwuid(os.getuid()).pw_name
    assert (row.source, row.reason, row.state) == ("command", "because", "active")


def test_json_is_alone_on_standard_output(host: Host, simulator: SimulatedOllama) -> None:
    run("switch", "mid-a")
    ran = run("switch", "mid-b", "--strategy", "swap", "--json")
    assert ran.code == 0
    body = ran.json()
    assert body["success"] is True
    assert (body["previous_model"], body["model"], body["strategy"]) == (
        "mid-a:latest",
        "mid-b:latest",
        "swap",
    )
    assert "loading" in ran.err


def test_a_failed_load_is_rolled_back_with_code_3(host: Host, simulator: SimulatedOllama) -> None:
    run("switch", "mid-a")
    simulator.fault(kind="fail_load", tag="mid-b")
    ran = run("switch", "mid-b", "--strategy", "overlap")
    assert ran.code == 3
    assert "Rolled back: " in ran.out
    assert "out of memory" in ran.out
    assert "mid-a stays active" in ran.out
    assert simulator.resident() == {"mid-a"}


def test_a_host_that_does_not_answer_is_code_4(host: Host, unused_tcp_port: int) -> None:
    config.put_host({"name": "gone", "base_url": f"http://127.0.0.1:{unused_tcp_port}"}, ADMIN)
    ran = run("switch", "mid-a", "--host", "gone")
    assert ran.code == 4
    assert "Connection refused" in ran.out
    assert run("switch", "mid-a", "--host", "gone", "--dry-run").code == 4


def test_a_model_that_is_not_there_is_refused_with_code_5(host: Host) -> None:
    ran = run("switch", "nope")
    assert ran.code == 5
    assert "ollama pull nope" in ran.out


def test_a_host_that_is_switching_is_refused_with_code_5(host: Host) -> None:
    switches.open_switch(ResolvedRequest(host, Spec("", "mid-b")), ADMIN)
    ran = run("switch", "mid-a", "--json")
    assert ran.code == 5
    assert ran.json()["error_code"] == "switch-running"
    assert "already switching to mid-b" in ran.err


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("mid-a", "--host", "nowhere"),
        ("--profile", "nothing"),
        ("a b",),
        ("mid-a", "--keep-alive", "30"),
    ],
)
def test_wrong_usage_is_code_1(host: Host, args: tuple[str, ...]) -> None:
    ran = run("switch", *args)
    assert ran.code == 1
    assert ran.err.strip()
    assert not SwitchEvent.objects.exists()


def test_an_unknown_option_is_code_1_too() -> None:
    ran = subprocess.run(
        [sys.executable, "manage.py", "switch", "--frob"], capture_output=True, check=False
    )
    assert ran.returncode == 1
    assert b"unrecognized arguments" in ran.stderr


def test_a_dry_run_shows_the_plan_and_does_nothing(host: Host, simulator: SimulatedOllama) -> None:
    run("switch", "mid-a")
    ran = run("switch", "big", "--dry-run")
    assert ran.code == 0
    assert "Plan for tower: swap, because" in ran.out
    assert "unload mid-a" in ran.out
    assert run("switch", "big", "--dry-run", "--json").json()["model"] == "big:latest"
    assert run("switch", "nope", "--dry-run").code == 5
    assert simulator.resident() == {"mid-a"}
    assert SwitchEvent.objects.count() == 1


def test_a_switch_that_a_server_has_claimed_is_only_followed(
    host: Host, simulator: SimulatedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claim the switch as soon as it is requested, as the worker of a server does."""
    monkeypatch.setattr(following, "CLAIM_INTERVAL_S", 60.0)
    real = service.request_switch
    served: list[threading.Thread] = []

    def serve(switch_id: int) -> None:
        following.run_once(switch_id)
        connections.close_all()

    def ask(*args: Any, **kwargs: Any) -> Any:
        row, made = real(*args, **kwargs)
        served.append(threading.Thread(target=serve, args=(row.pk,)))
        served[0].start()
        return row, made

    monkeypatch.setattr(service, "request_switch", ask)
    ran = run("switch", "mid-a")
    served[0].join()
    assert ran.code == 0
    assert "mid-a is active on tower." in ran.out


def press_ctrl_c(monkeypatch: pytest.MonkeyPatch, *, at: str) -> None:
    """Press Ctrl-C as soon as the switch is in this state."""
    real = following.Screen.show
    pressed: list[bool] = []

    def show(self: following.Screen, row: Any) -> None:
        real(self, row)
        if row.state.value == at and not pressed:
            pressed.append(True)
            raise KeyboardInterrupt

    monkeypatch.setattr(following.Screen, "show", show)


def answer(monkeypatch: pytest.MonkeyPatch, text: str) -> list[str]:
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


def test_ctrl_c_cancels_and_keeps_following(
    host: Host, simulator: SimulatedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("switch", "mid-a")
    simulator.fault(kind="slow_load", tag="big", factor=1000.0)
    asked = answer(monkeypatch, "c")
    press_ctrl_c(monkeypatch, at="loading")
    ran = run("switch", "big")
    assert asked == ["\nCancel (c) or go on (g)? "]
    assert ran.code == 3
    assert SwitchEvent.objects.latest("id").state == "cancelled"
    assert simulator.resident() == {"mid-a"}


def test_after_ctrl_c_the_switch_may_go_on(
    host: Host, simulator: SimulatedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, "g")
    press_ctrl_c(monkeypatch, at="loading")
    simulator.fault(kind="slow_load", tag="big", factor=3.0)
    assert run("switch", "big").code == 0


def test_ctrl_c_leaves_a_switch_that_a_server_runs(
    host: Host, simulator: SimulatedOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "CLAIM_INTERVAL_S", 60.0)
    asked = answer(monkeypatch, "l")
    press_ctrl_c(monkeypatch, at="queued")
    assert run("switch", "mid-a").code == 130
    assert asked == ["\nCancel (c) or leave it running (l)? "]
    assert SwitchEvent.objects.get().state == "queued"


def test_on_a_terminal_a_line_counts_the_seconds(host: Host) -> None:
    ran = run("switch", "mid-a", terminal=True)
    assert ran.code == 0
    assert "\r\x1b[2K" in ran.out
    assert " s …" in ran.out
