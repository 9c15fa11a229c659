"""What is edited, removed or deleted while a switch runs, and who runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection, connections
from django.test import Client

from switcher.domain.errors import Conflict, NotFound, SwitchRunning
from switcher.domain.states import State
from switcher.models import AuditEntry, Host, Lease, ModelProfile, SwitchEvent
from switcher.records import config
from switcher.switching import service
from switcher.switching.service import SwitchRequest
from switcher.switching.worker import Worker, run_once
from tests.races.conftest import ANNA, BEN, World
from tests.records.conftest import at_once
from tests.server.process import ROOT, environment
from tests.until import PATIENCE_S, until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_databases]

SignIn = Callable[[str], Client]


def under_way(world: World, tag: str = "mid-b") -> int:
    """A switch whose load is under way, and goes on until the faults are cleared."""
    world.ollama.fault(kind="slow_load", tag=tag, factor=20)
    asked = world.ask(tag)
    world.until_loading(tag)
    return asked


# --- its profile ------------------------------------------------------------------------------


def test_what_is_activated_is_what_was_asked_for_and_verified_not_what_the_profile_says_by_now(
    world: World, worker: Worker
) -> None:
    row = world.profile("mid-b", keep_alive="2h", options={"num_ctx": 2048})
    asked = under_way(world)
    edited = {"tag": "big", "keep_alive": "1m", "options": {"num_ctx": 8192}, "name": "other"}
    config.put_profile(edited, BEN, row.pk)
    ended = world.ended(asked)
    host = Host.objects.get(pk=world.host.pk)
    assert (ended.state, host.active_tag) == (State.ACTIVE, "mid-b")
    spec = host.active_spec or {}
    assert (spec["tag"], spec["keep_alive"], spec["options"]) == ("mid-b", "2h", {"num_ctx": 2048})
    assert ended.figures["context_length"] == 2048, "and what was verified is that"
    world.check_truth()


def test_a_profile_that_an_open_switch_uses_is_not_deleted(world: World, worker: Worker) -> None:
    row = world.profile("mid-b")
    asked = under_way(world)
    with pytest.raises(Conflict, match="mid-b is in use on north-1"):
        config.delete_profile(row.pk, BEN)
    assert world.ended(asked).state == State.ACTIVE
    with pytest.raises(Conflict, match="in use"):
        config.delete_profile(row.pk, BEN)
    world.ended(world.ask("mid-a"))
    config.delete_profile(row.pk, BEN)
    world.check_truth()


def test_a_profile_that_is_deleted_just_before_the_switch_is_written_down_does_no_harm(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The switch has all it needs of it in its own record."""
    row = world.profile("mid-b", keep_alive="2h")
    resolve = service.resolve

    def delete_after(*wish: Any) -> Any:
        want = resolve(*wish)
        config.delete_profile(row.pk, BEN)
        return want

    monkeypatch.setattr(service, "resolve", delete_after)
    asked = world.ask("mid-b")
    assert run_once(asked)
    host = Host.objects.get(pk=world.host.pk)
    assert (host.active_tag, host.active_profile) == ("mid-b", None)
    assert (host.active_spec or {})["keep_alive"] == "2h"
    world.check_truth()


def test_a_profile_deleted_and_asked_for_at_once_ends_one_way_or_the_other(
    world: World, worker: Worker
) -> None:
    for _ in range(5):
        row = world.profile("mid-b")
        asked, deleted = at_once(
            partial(world.ask, "mid-b"), partial(config.delete_profile, row.pk, BEN)
        )
        assert isinstance(asked, int), asked  # by its tag, where the profile is gone
        assert deleted is None or isinstance(deleted, Conflict)
        assert world.ended(asked).state == State.ACTIVE
        world.ended(world.ask("mid-a"))
        if ModelProfile.objects.filter(pk=row.pk).exists():
            config.delete_profile(row.pk, BEN)
    world.check_truth()


# --- its host ---------------------------------------------------------------------------------


def test_a_host_that_switches_is_neither_removed_nor_moved_elsewhere(
    world: World, worker: Worker
) -> None:
    asked = under_way(world)
    with pytest.raises(Conflict, match="north-1 is switching"):
        config.remove_host(world.host.pk, BEN)
    with pytest.raises(Conflict, match="north-1 is switching"):
        config.put_host({"base_url": "http://127.0.0.1:9"}, BEN, world.host.pk)
    host = Host.objects.get(pk=world.host.pk)
    assert (host.removed_at, host.base_url) == (None, world.ollama.url)
    assert world.ended(asked).state == State.ACTIVE
    world.check_truth()
    config.remove_host(world.host.pk, BEN)
    with pytest.raises(NotFound):
        world.ask("mid-a")
    assert world.ollama.resident() == {"mid-b"}, "nothing on it is touched"


@pytest.mark.parametrize(
    "act",
    [
        lambda host: config.remove_host(host.pk, BEN),
        lambda host: config.put_host({"base_url": "http://127.0.0.1:9"}, BEN, host.pk),
    ],
    ids=["removed", "moved"],
)
def test_a_host_removed_or_moved_and_asked_for_at_once_ends_one_way_or_the_other(
    world: World, act: Callable[[Host], object]
) -> None:
    asked, done = at_once(partial(world.ask, "mid-b"), partial(act, world.host))
    host = Host.objects.get(pk=world.host.pk)
    if isinstance(asked, int):
        # It was written down: where it runs is the address as it was then, or as it is by now.
        assert isinstance(done, Conflict) or host.base_url == "http://127.0.0.1:9"
        assert host.removed_at is None
        run_once(asked)
        assert world.state(asked) == (
            State.ACTIVE if host.base_url == world.ollama.url else State.FAILED
        )
    else:
        assert isinstance(asked, NotFound)
        assert not isinstance(done, Exception)
    if host.removed_at is None and host.base_url == world.ollama.url:
        world.check_truth()


def test_edits_of_a_host_during_a_switch_lose_neither_the_edit_nor_the_activation(
    world: World, worker: Worker
) -> None:
    over = threading.Event()

    def edit() -> int:
        n = 0
        # With a pause: SQLite lets whoever writes without one write for ever.
        while not over.wait(0.01):
            n += 1
            config.put_host(
                {"name": f"north-{n}", "keep_alive": f"{n}m", "vram_bytes": 10**10 + n},
                BEN,
                world.host.pk,
                default=True,
            )
        return n

    def switch() -> None:
        try:
            for tag in ("mid-b", "mid-a", "mid-b"):
                host = Host.objects.get(pk=world.host.pk)
                wish = SwitchRequest(tag, host="")
                assert host.is_default
                asked = service.request_switch(wish, ANNA)[0].pk
                assert world.ended(asked).state == State.ACTIVE
        finally:
            over.set()

    edits, switched = at_once(edit, switch)
    assert switched is None
    host = Host.objects.get(pk=world.host.pk)
    assert (host.name, host.keep_alive) == (f"north-{edits}", f"{edits}m")
    assert host.active_tag == "mid-b"
    world.check_truth()


# --- who asked --------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["deactivated", "deleted"])
def test_a_switch_goes_on_without_who_asked_and_the_record_keeps_the_name(
    world: World, worker: Worker, sign_in: SignIn, fate: str
) -> None:
    client = sign_in("olga")
    world.ollama.fault(kind="slow_load", tag="mid-b", factor=20)
    response = client.post(
        "/ollama/models/switch", '{"model": "mid-b", "wait": false}', "application/json"
    )
    asked = response.json()["event"]["id"]
    world.until_loading("mid-b")
    if fate == "deleted":
        User.objects.get(username="olga").delete()
    else:
        User.objects.filter(username="olga").update(is_active=False)
    assert client.delete(f"/ollama/switches/{asked}").status_code == 401, "and may no more"
    assert world.ended(asked).state == State.ACTIVE
    assert world.row(asked).actor == "olga"
    told = AuditEntry.objects.filter(switch_id=asked).values_list("actor", flat=True)
    assert set(told) == {"olga"}
    assert sign_in("ben").get(f"/switches/{asked}/").status_code in (200, 301, 302)
    world.check_truth()


# --- who runs it ------------------------------------------------------------------------------


def test_of_many_workers_on_the_same_switch_one_wins(
    world: World, start: Callable[[], Worker]
) -> None:
    start(), start()
    asked = world.ask("mid-b")
    ran = at_once(*(partial(run_once, asked) for _ in range(6)))
    assert not [r for r in ran if isinstance(r, Exception)], ran
    world.ended(asked)
    assert sum(bool(r) for r in ran) <= 1
    assert world.loads("mid-b") == 1
    assert world.row(asked).fence == Lease.objects.get(host=world.host).fence
    world.check_truth()


RUN = """
import sys, time
from project import settings
settings.DATABASES["default"]["NAME"] = sys.argv[1]
import django; django.setup()
from switcher.switching.worker import run_once
print("ready", flush=True)
sys.stdin.readline()
print(run_once(int(sys.argv[2])), flush=True)
"""


def test_of_two_processes_on_the_same_switch_one_wins(world: World, tmp_path: Any) -> None:
    asked = world.ask("mid-b")
    world.ollama.fault(kind="slow_load", tag="mid-b", factor=5)
    name = str(connection.settings_dict["NAME"])
    env = environment(tmp_path) | {
        k: v for k, v in os.environ.items() if k == "SWITCHER_DATABASE_URL"
    }
    made = [
        subprocess.Popen(
            [sys.executable, "-c", RUN, name, str(asked)],
            env=env,
            cwd=ROOT,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]
    for process in made:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in made:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=PATIENCE_S)[0].strip() for process in made]
    assert sorted(said) == ["False", "True"]
    assert world.state(asked) == State.ACTIVE
    assert world.loads("mid-b") == 1
    world.check_truth()


# --- while it recovers ------------------------------------------------------------------------


def left_behind(world: World) -> int:
    """A switch whose worker has died in mid-load; its lease lasts a moment more."""
    stopping = threading.Event()
    world.slow("big")
    asked = world.ask("big")
    running = threading.Thread(
        target=lambda: (run_once(asked, stopping=stopping), connections.close_all())
    )
    running.start()
    world.until_loading("big")
    stopping.set()
    running.join(PATIENCE_S)
    assert world.state(asked) is State.LOADING
    Lease.objects.filter(host=world.host).update(
        owner="a worker that died", until=datetime.now(UTC) + timedelta(seconds=1.5)
    )
    return asked


def test_a_switch_asked_for_during_recovery_is_refused_and_possible_after_it(
    world: World, start: Callable[[], Worker]
) -> None:
    asked = left_behind(world)
    with pytest.raises(SwitchRunning) as caught:
        world.ask("mid-b", BEN)
    assert caught.value.switch_id == asked, "while the dead worker's lease lasts"
    world.ollama.clear_faults()
    world.ollama.fault(kind="slow_load", tag="mid-a", factor=15)
    start()
    until(lambda: world.state(asked) is State.RESTORING)
    with pytest.raises(SwitchRunning):
        world.ask("mid-b", BEN)
    with pytest.raises(Conflict, match="is already restoring the old model"):
        service.cancel(asked, BEN)
    row = world.ended(asked)
    assert (row.state, row.error_code, row.restored) == ("rolled_back", "interrupted", "mid-a")
    world.check_truth()
    assert world.ended(world.ask("mid-b", BEN)).state == State.ACTIVE
    world.check_truth()


def test_many_that_recover_and_ask_at_once_leave_one_true_state(
    world: World, start: Callable[[], Worker]
) -> None:
    asked = left_behind(world)
    world.ollama.clear_faults()
    Lease.objects.update(until=None)
    results = at_once(
        *(partial(run_once, asked) for _ in range(4)),
        *(partial(world.ask, tag, BEN) for tag in ("mid-b", "mid-a")),
    )
    start()
    assert not [r for r in results if isinstance(r, Exception) and not isinstance(r, SwitchRunning)]
    assert sum(r is True for r in results[:4]) == 1
    for row in SwitchEvent.objects.all():
        world.ended(row.pk)
    assert world.row(asked).state == State.ROLLED_BACK
    world.check_truth()
