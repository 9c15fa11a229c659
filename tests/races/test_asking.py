"""Two who ask at once, one who asks twice, and keys that are used again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from django.test import Client

from switcher.audit.ledger import Actor
from switcher.domain.errors import BadRequest, Conflict, SwitchRunning
from switcher.domain.states import State
from switcher.models import AuditEntry, ModelProfile, SwitchEvent
from switcher.records import config
from switcher.switching import service
from switcher.switching.service import SwitchRequest
from switcher.switching.worker import Worker
from tests.races.conftest import ANNA, BEN, World
from tests.records.conftest import at_once

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_databases]

SignIn = Callable[[str], Client]
SWITCH = "/ollama/models/switch"


def new(world: World) -> list[SwitchEvent]:
    """The switches after the first one, which made mid-a active."""
    return list(SwitchEvent.objects.order_by("pk"))[1:]


# --- a double click ---------------------------------------------------------------------------


def click(client: Client, token: str, **more: str) -> Any:
    form = {"host": "north-1", "profile": "mid-b", "plan": token, **more}
    return client.post("/switch", form)


def test_a_double_click_is_one_switch_and_both_clicks_lead_to_it(
    world: World, worker: Worker, sign_in: SignIn
) -> None:
    world.profile("mid-b")
    token = service.plan(SwitchRequest(profile="mid-b", host="north-1")).token
    clients = [sign_in("olga") for _ in range(2)]
    answers: list[Any] = at_once(*(partial(click, c, token) for c in clients))
    (row,) = new(world)
    assert {a.status_code for a in answers} == {302}
    assert {a["Location"] for a in answers} == {f"/#switch-{row.pk}"}
    assert world.ended(row.pk).state == State.ACTIVE
    assert world.loads("mid-b") == 1
    assert AuditEntry.objects.filter(switch=row, kind="switch.queued").count() == 1
    world.check_truth()


def test_a_second_click_that_comes_when_the_host_has_changed_leads_there_too(
    world: World, worker: Worker, sign_in: SignIn
) -> None:
    """Its plan does not hold any more, because of the first one."""
    world.profile("mid-b")
    token = service.plan(SwitchRequest(profile="mid-b", host="north-1", strategy="swap")).token
    client = sign_in("olga")
    world.ollama.fault(kind="slow_load", tag="mid-b", factor=20)
    first = click(client, token, strategy="swap")
    world.until_loading("mid-b")
    assert world.ollama.resident() == set(), "what the plan was made for has left"
    second = click(client, token, strategy="swap")
    (row,) = new(world)
    assert first["Location"] == second["Location"] == f"/#switch-{row.pk}"
    assert world.ended(row.pk).state == State.ACTIVE
    world.check_truth()


# --- two admins -------------------------------------------------------------------------------


def test_of_two_admins_at_the_same_moment_one_gets_the_switch_and_the_other_its_number(
    world: World, worker: Worker
) -> None:
    results = at_once(partial(world.ask, "mid-b", ANNA), partial(world.ask, "big", BEN))
    (row,) = new(world)
    (lost,) = [r for r in results if isinstance(r, Exception)]
    assert isinstance(lost, SwitchRunning)
    assert lost.switch_id == row.pk
    assert f"already switching to {row.to_tag}, started by {row.actor}" in lost.text
    assert world.ended(row.pk).state == State.ACTIVE
    assert world.ollama.resident() == {row.to_tag}
    world.check_truth()


def test_two_admins_by_the_api_get_a_202_and_a_409_that_leads_to_it(
    world: World, worker: Worker, sign_in: SignIn
) -> None:
    def post(client: Client, model: str) -> Any:
        body = f'{{"model": "{model}", "wait": false}}'
        return client.post(SWITCH, body, "application/json")

    clients = sign_in("anna"), sign_in("ben")
    answers: list[Any] = at_once(
        partial(post, clients[0], "mid-b"), partial(post, clients[1], "big")
    )
    (row,) = new(world)
    won, lost = sorted(answers, key=lambda a: a.status_code)
    assert (won.status_code, lost.status_code) == (202, 409)
    assert lost.json()["event"]["id"] == won.json()["event"]["id"] == row.pk
    assert world.ended(row.pk).state == State.ACTIVE
    world.check_truth()


def test_many_that_ask_again_and_again_leave_one_true_state(world: World, worker: Worker) -> None:
    def insist(n: int) -> int:
        model, actor, asked = ("mid-a", "mid-b", "big")[n % 3], Actor(f"user-{n}", "api"), 0
        for _ in range(4):
            try:
                world.ended(world.ask(model, actor))
                asked += 1
            except SwitchRunning as exc:
                world.ended(exc.switch_id)
        return asked

    done = at_once(*(partial(insist, n) for n in range(6)))
    assert not [r for r in done if isinstance(r, Exception)], done
    assert len(new(world)) == sum(r for r in done if isinstance(r, int))
    assert {row.state for row in new(world)} == {State.ACTIVE}
    world.check_truth()


# --- what is active already -------------------------------------------------------------------


def test_a_switch_to_what_is_active_has_it_answer_and_loads_and_unloads_nothing(
    world: World, worker: Worker
) -> None:
    before = world.ollama.state()
    row = world.ended(world.ask("mid-a", BEN))
    after = world.ollama.state()
    assert (row.state, row.figures["already_active"]) == (State.ACTIVE, True)
    assert (after["loads"], after["unloads"]) == (before["loads"], before["unloads"])
    assert after["served"]["mid-a:latest"] > before["served"]["mid-a:latest"]
    assert not AuditEntry.objects.filter(switch=row, kind="host.activated").exists()
    world.check_truth()


def test_a_switch_back_that_is_asked_while_it_is_left_is_refused_not_taken_as_done(
    world: World, worker: Worker
) -> None:
    """mid-a is recorded as active until the other one is."""
    world.slow("big")
    first = world.ask("big")
    world.until_loading("big")
    with pytest.raises(SwitchRunning) as caught:
        world.ask("mid-a", BEN)
    assert caught.value.switch_id == first
    service.cancel(first, BEN)
    assert world.ended(first).state == State.CANCELLED
    world.check_truth()


# --- the same key -----------------------------------------------------------------------------


def keyed(model: str, key: str = "k-1", actor: Actor = ANNA, **values: str) -> tuple[int, bool]:
    row, made = service.request_switch(SwitchRequest(model, **values), actor, idempotency_key=key)
    return row.pk, made


def test_one_key_from_eight_threads_is_one_switch_also_after_its_end(
    world: World, worker: Worker
) -> None:
    results = at_once(*(partial(keyed, "mid-b") for _ in range(8)))
    (row,) = new(world)
    assert sorted(results) == [(row.pk, False)] * 7 + [(row.pk, True)]  # type: ignore[type-var]
    world.ended(row.pk)
    assert at_once(*(partial(keyed, "mid-b") for _ in range(8))) == [(row.pk, False)] * 8
    assert world.loads("mid-b") == 1
    assert len(new(world)) == 1
    world.check_truth()


def test_one_key_with_two_wishes_from_eight_threads_is_one_switch_and_refusals(
    world: World, worker: Worker
) -> None:
    wishes = [("mid-b", "big")[n % 2] for n in range(8)]
    results = at_once(*(partial(keyed, wish) for wish in wishes))
    (row,) = new(world)
    for wish, result in zip(wishes, results, strict=True):
        if wish == row.to_tag:
            assert result in [(row.pk, True), (row.pk, False)]
        else:
            assert isinstance(result, Conflict)
            assert not isinstance(result, SwitchRunning)
            assert f"was used for switch {row.pk}, which is another one" in result.text
    world.ended(row.pk)
    world.check_truth()


@pytest.mark.parametrize(
    "other",
    [{"strategy": "swap"}, {"reason": "another"}, {"keep_alive": "2h"}, {"profile": "b-long"}],
    ids=str,
)
def test_a_key_does_not_stand_for_a_request_that_says_something_else(
    world: World, other: dict[str, str]
) -> None:
    world.profile("mid-b")
    config.save_profile(ModelProfile(name="b-long", tag="mid-b", keep_alive="2h"), ANNA)
    first, _ = keyed("mid-b", profile="mid-b")
    with pytest.raises(Conflict, match=f"used for switch {first}, which is another one"):
        keyed("mid-b", **{"profile": "mid-b"} | other)
    assert keyed("mid-b", profile="mid-b") == (first, False)
    service.cancel(first, ANNA)


def test_a_request_that_is_sent_again_is_the_same_also_where_its_profile_was_edited(
    world: World,
) -> None:
    row = world.profile("mid-b", keep_alive="30m")
    first, _ = keyed("mid-b")
    config.put_profile({"keep_alive": "2h"}, ANNA, row.pk)
    assert keyed("mid-b") == (first, False)


def test_two_people_may_use_the_same_key(world: World, worker: Worker) -> None:
    first, _ = keyed("mid-b", actor=ANNA)
    world.ended(first)
    second, made = keyed("mid-b", actor=BEN)
    assert made
    assert second != first
    world.ended(second)
    world.check_truth()


def test_a_key_that_is_too_long_is_refused_rather_than_cut(world: World, sign_in: SignIn) -> None:
    """Cut, these two would be one."""
    for key in ("k" * 200 + "1", "k" * 200 + "2"):
        with pytest.raises(BadRequest, match="at most 200 characters"):
            keyed("mid-b", key)
    response = sign_in("olga").post(
        SWITCH, '{"model": "mid-b"}', "application/json", headers={"Idempotency-Key": "k" * 201}
    )
    assert response.status_code == 422
    assert "at most 200 characters" in response.json()["detail"]
    assert new(world) == []
    assert keyed("mid-b", "k" * 200)[1]
