"""The scheduler in simulated time: seconds cost nothing here."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ollama_simulator.durations import FOREVER_S
from ollama_simulator.faults import Fault, read_fault
from ollama_simulator.runner import Config, resident_bytes
from ollama_simulator.server import Refused, Server
from tests.ollama_simulator.conftest import GB, World

MakeWorld = Callable[..., World]


def strike(world: World, kind: str, **fields: object) -> None:
    world.server.faults.add(read_fault({"kind": kind, **fields}))


def befall(world: World, kind: str, **fields: object) -> bool:
    act: Fault = read_fault({"kind": kind, **fields})
    return world.server.do(act)


def test_a_load_takes_the_time_of_its_bytes(world: World) -> None:
    ask = world.load("a")
    assert (ask.reason, world.now, ask.load_s) == ("load", 4.0, 4.0)


def test_nothing_shows_before_the_load_has_ended(world: World) -> None:
    """Fact 8."""
    world.ask("a", empty=True)
    world.pass_s(3.999)
    assert world.names() == []
    world.pass_s(0.001)
    assert world.names() == ["a"]


@pytest.mark.parametrize(
    ("size", "num_ctx", "measured"),
    [
        (412_533_013, 2048, 574_535_761),
        (412_533_013, 1024, 506_378_321),
        (834_546, 2048, 7_130_316),
        (2_469_351_922, 2048, 2_925_474_610),
    ],
)
def test_a_runner_takes_what_was_measured(size: int, num_ctx: int, measured: int) -> None:
    manifest = Server().add_model("x", size)
    assert resident_bytes(manifest, num_ctx) == pytest.approx(measured, rel=0.02)


# -- room


def test_models_lie_beside_each_other_while_they_fit(world: World) -> None:
    world.load("a")
    world.load("b")
    assert sorted(world.names()) == ["a", "b"]
    assert all(row.size_vram == row.size for row in world.server.ps())


@pytest.mark.parametrize(("short", "long"), [("a", "b"), ("b", "a")])
def test_the_one_with_the_shortest_keep_alive_is_evicted(
    make_world: MakeWorld, short: str, long: str
) -> None:
    """Fact 14."""
    world = make_world(max_loaded=2)
    world.load("a", keep_alive="10m" if short == "a" else "30m")
    world.load("b", keep_alive="10m" if short == "b" else "30m")
    world.load("c")
    assert sorted(world.names()) == sorted([long, "c"])


def test_an_idle_one_is_evicted_before_a_busy_one(make_world: MakeWorld) -> None:
    """Fact 14: whatever its keep-alive."""
    world = make_world(max_loaded=2)
    world.load("a", keep_alive="1m")
    world.load("b", keep_alive=-1)
    world.ask("a", tokens=10_000)
    world.load("c")
    assert sorted(world.names()) == ["a", "c"]


def test_a_model_that_does_not_fit_beside_evicts(make_world: MakeWorld) -> None:
    world = make_world(vram=8 * GB)
    world.load("a")
    world.load("b")
    assert world.names() == ["b"]


def test_a_further_model_may_take_most_of_the_free_room_only(make_world: MakeWorld) -> None:
    """The real scheduler leaves a fifth of the free memory as a reserve."""
    size = resident_bytes(Server().add_model("a", 4 * GB), 4096)
    tight, roomy = make_world(vram=2 * size), make_world(vram=2 * size, headroom=1.0)
    for world in (tight, roomy):
        world.load("a")
        world.load("b")
    assert tight.names() == ["b"]
    assert sorted(roomy.names()) == ["a", "b"]


def test_a_model_larger_than_the_host_lies_there_in_part(world: World) -> None:
    world.load("a")
    world.load("huge")
    (row,) = world.server.ps()
    assert (row.name, row.size_vram) == ("huge:latest", 24 * GB)
    assert row.size > row.size_vram


def test_a_model_in_part_on_the_cpu_is_slower(make_world: MakeWorld) -> None:
    whole, part = make_world(), make_world(vram=2 * GB)
    took = []
    for world in (whole, part):
        world.load("a")
        began = world.now
        world.finish(world.ask("a", tokens=100))
        took.append(world.now - began)
    assert took[1] > 1.5 * took[0]


def test_a_host_without_a_gpu_has_nothing_in_vram(make_world: MakeWorld) -> None:
    world = make_world(vram=0)
    for model in ("a", "b", "huge"):
        world.load(model)
    assert len(world.names()) == 3
    assert {row.size_vram for row in world.server.ps()} == {0}


def test_three_models_are_the_most_unless_told_otherwise(make_world: MakeWorld) -> None:
    world = make_world(vram=1000 * GB)
    for model in ("a", "b", "c", "embed"):
        world.load(model, kind="embed" if model == "embed" else "generate")
    assert len(world.names()) == 3


# -- the queue


def test_requests_have_their_turn_in_order(world: World) -> None:
    """Fact 14: one load at a time."""
    first, second = world.ask("a"), world.ask("b")
    assert (first.state, second.state) == ("loading", "queued")
    world.finish(first)
    assert world.finish(second).load_s > 7.9


def test_a_loaded_model_answers_past_the_queue(world: World) -> None:
    """Fact 14."""
    world.load("a")
    world.ask("b")
    world.ask("c")
    assert world.finish(world.ask("a", tokens=2)).load_s == 0.0


def test_who_queued_before_the_load_keeps_his_place(world: World) -> None:
    """A place in the queue is kept, even if the model is loaded meanwhile."""
    asks = [world.ask(m, tokens=1) for m in ("a", "b", "a", "b")]
    ends = [world.finish(ask).running_at for ask in asks]
    assert ends == sorted(ends)
    assert world.server.machine.counts["loads"].total() == 2


def test_a_full_queue_refuses(make_world: MakeWorld) -> None:
    """Fact 14: the loading request takes no place in it."""
    world = make_world(max_queue=2)
    asks = [world.ask("a") for _ in range(4)]
    assert [a.state for a in asks] == ["loading", "queued", "queued", "failed"]
    assert (asks[3].status, asks[3].error) == (
        503,
        "server busy, please try again.  maximum pending requests exceeded",
    )


def test_an_eviction_waits_for_a_busy_model(make_world: MakeWorld) -> None:
    """Fact 14: the one that expires soonest; its requests end first."""
    world = make_world(max_loaded=1, tokens_per_s=10.0)
    world.load("a", keep_alive="30m")
    busy = world.ask("a", tokens=100)
    load = world.ask("b", empty=True)
    world.pass_s(5)
    assert (world.names(), load.state) == (["a"], "queued")
    world.finish(load)
    assert busy.state == "done"
    assert world.names() == ["b"]


def test_a_busy_model_that_is_revived_makes_the_queue_wait_longer(make_world: MakeWorld) -> None:
    """Facts 3, 14: the load waits until that model is unloaded, whenever that is."""
    world = make_world(max_loaded=1, tokens_per_s=10.0)
    world.load("a")
    world.ask("a", tokens=100)
    load = world.ask("b", empty=True)
    revive = world.ask("a", tokens=10, keep_alive="1m")
    world.finish(revive)
    world.pass_s(59)
    assert load.state == "queued"
    assert world.names() == ["a"]
    assert world.finish(load).state == "done"


def test_replies_of_one_model_come_one_after_the_other(make_world: MakeWorld) -> None:
    world = make_world(tokens_per_s=10.0)
    world.load("a")
    first, second = world.ask("a", tokens=100), world.ask("a", tokens=100)
    assert (first.state, second.state) == ("running", "waiting")
    world.finish(second)
    assert second.ends_at - first.ends_at == pytest.approx(10.0, abs=0.1)


def test_replies_run_side_by_side_where_the_host_is_set_to(make_world: MakeWorld) -> None:
    world = make_world(parallel=2)
    world.load("a")
    asks = [world.ask("a") for _ in range(3)]
    assert [a.state for a in asks] == ["running", "running", "waiting"]


# -- clients that disconnect


def test_who_goes_away_aborts_his_load(world: World) -> None:
    """Fact 9."""
    ask = world.ask("a")
    world.pass_s(3)
    world.server.abandon(ask)
    world.pass_s(100)
    assert (ask.state, world.names()) == ("gone", [])
    assert world.server.machine.counts["aborted"].total() == 1


def test_the_next_who_waits_for_it_begins_the_load_again(world: World) -> None:
    """Fact 9."""
    first, second = world.ask("a"), world.ask("a")
    world.pass_s(3)
    world.server.abandon(first)
    assert second.state == "loading"
    assert world.finish(second).load_s == 7.0


def test_who_goes_away_from_the_queue_is_passed_over(world: World) -> None:
    asks = [world.ask(m) for m in ("a", "b", "c")]
    world.server.abandon(asks[1])
    world.finish(asks[2])
    assert sorted(world.names()) == ["a", "c"]


def test_an_eviction_goes_on_when_its_cause_has_gone_away(make_world: MakeWorld) -> None:
    world = make_world(max_loaded=1)
    world.load("a", keep_alive="30m")
    busy, load = world.ask("a", tokens=600), world.ask("b")
    world.server.abandon(load)
    world.finish(busy)
    world.pass_s(1)
    assert world.names() == []


def test_who_goes_away_from_a_reply_leaves_the_clock_running(world: World) -> None:
    """Fact 13."""
    world.load("a", keep_alive="1m")
    ask = world.ask("a", tokens=100_000)
    world.pass_s(600)
    assert world.names() == ["a"]
    world.server.abandon(ask)
    assert world.left_s("a") == 60
    world.pass_s(61)
    assert world.names() == []


def test_abandoning_twice_or_after_the_end_does_nothing(world: World) -> None:
    ask = world.load("a")
    world.server.abandon(ask)
    assert ask.state == "done"


# -- clocks


def test_an_idle_model_leaves_when_its_time_is_up(world: World) -> None:
    world.load("a", keep_alive="10s")
    world.pass_s(9.9)
    assert world.names() == ["a"]
    world.pass_s(0.2)
    assert world.names() == []


def test_for_ever_is_292_years(world: World) -> None:
    """Fact 7."""
    world.load("a", keep_alive=-1)
    assert world.left_s("a") == FOREVER_S
    world.pass_s(3600 * 24 * 365)
    assert world.names() == ["a"]


def test_the_default_keep_alive_counts_for_who_names_none(make_world: MakeWorld) -> None:
    world = make_world(default_keep_alive_s=42.0)
    world.load("a")
    assert world.left_s("a") == 42


def test_the_expiry_shown_stands_still_while_a_reply_runs(world: World) -> None:
    """As recorded: it is set when the model becomes idle."""
    world.load("a", keep_alive="1m")
    world.ask("a", tokens=6000)
    world.pass_s(50)
    assert world.left_s("a") == pytest.approx(10)


def test_the_expiry_shown_of_a_first_reply_moves_on(world: World) -> None:
    """As recorded: until the model is first idle, it is now plus the keep-alive."""
    world.ask("a", tokens=6000, keep_alive="1m")
    world.pass_s(50)
    assert world.left_s("a") == pytest.approx(60)


def test_a_reload_is_for_other_runner_options_only(world: World) -> None:
    """Fact 12."""
    loads = world.server.machine.counts["loads"]
    world.load("a", keep_alive="30m", options={"num_ctx": 2048})
    world.finish(world.ask("a", options={"num_ctx": 2048, "temperature": 1}))
    world.finish(world.ask("a", options={"num_ctx": 2048, "num_gpu": -1}))
    assert loads.total() == 1
    world.finish(world.ask("a"))
    assert loads.total() == 2
    assert world.left_s("a") == 300


def test_a_reload_waits_for_who_is_being_answered(world: World) -> None:
    """Fact 12."""
    world.load("a")
    busy = world.ask("a", tokens=600)
    other = world.ask("a", options={"num_ctx": 1024})
    world.finish(other)
    assert busy.state == "done"
    assert busy.ends_at < other.started_at


def test_an_absent_num_gpu_takes_any_placement(world: World) -> None:
    """Fact 12: but a different value reloads."""
    loads = world.server.machine.counts["loads"]
    world.load("a", options={"num_gpu": 0})
    assert world.server.ps()[0].size_vram == 0
    world.load("a")
    assert loads.total() == 1
    world.load("a", options={"num_gpu": 33})
    assert loads.total() == 2
    assert world.server.ps()[0].size_vram == world.server.ps()[0].size


@pytest.mark.parametrize("option", [{"num_batch": 64}, {"main_gpu": 1}, {"use_mmap": False}])
def test_every_runner_option_that_differs_loads_anew(world: World, option: dict[str, int]) -> None:
    """Fact 12: and so does omitting it afterwards."""
    loads = world.server.machine.counts["loads"]
    for options in (option, option, {}, {"num_batch": 512}):
        world.load("a", options=options)
    assert loads.total() == 2


def test_a_context_longer_than_trained_is_cut(world: World) -> None:
    world.load("a", options={"num_ctx": 10**6})
    assert world.server.ps()[0].context_length == 131_072


# -- unloading


def test_an_unload_is_answered_at_once_and_happens_soon(world: World) -> None:
    """Facts 1, 27."""
    world.load("a")
    ask = world.ask("a", empty=True, keep_alive=0)
    assert (ask.state, ask.reason, world.names()) == ("done", "unload", ["a"])
    world.pass_s(0.02)
    assert world.names() == []


def test_a_request_while_it_leaves_loads_it_again(world: World) -> None:
    world.load("a")
    world.ask("a", empty=True, keep_alive=0)
    ask = world.finish(world.ask("a", tokens=1))
    assert ask.load_s == pytest.approx(4.02)


def test_an_unload_while_it_loads_does_nothing(world: World) -> None:
    """Fact 4."""
    load = world.ask("a", empty=True, keep_alive="30m")
    world.pass_s(1)
    assert world.ask("a", empty=True, keep_alive=0).reason == "unload"
    world.finish(load)
    assert world.left_s("a") == 1800


# -- what goes wrong


def test_a_failed_load_fails_its_request_alone(world: World) -> None:
    """Fact 15."""
    world.load("b")
    strike(world, "fail_load", tag="a", message="invalid file magic", after_s=1.5, times=1)
    first, second = world.ask("a"), world.ask("a")
    world.finish(first)
    assert (first.status, first.error) == (500, "invalid file magic")
    assert world.finish(second).state == "done"
    assert sorted(world.names()) == ["a", "b"]


@pytest.mark.parametrize("recovers", [True, False])
def test_out_of_memory_evicts_all_others_first(world: World, recovers: bool) -> None:
    """Fact 15: it waits for busy ones, and nothing is restored."""
    world.load("b")
    world.load("c")
    busy = world.ask("b", tokens=600)
    strike(world, "fail_load", tag="a", evict_all=True, recovers=recovers, after_s=2.0)
    ask = world.finish(world.ask("a", empty=True))
    assert busy.state == "done"
    assert (ask.state, world.names()) == (("done", ["a"]) if recovers else ("failed", []))


def test_out_of_memory_with_nobody_else_fails_at_once(world: World) -> None:
    strike(world, "fail_load", evict_all=True, recovers=True)
    assert world.finish(world.ask("a")).state == "failed"


def test_a_model_may_come_up_on_the_cpu(world: World) -> None:
    strike(world, "cpu", share=0.25, times=1)
    world.load("a")
    (row,) = world.server.ps()
    assert row.size_vram == round(row.size / 4)


def test_a_slow_load_takes_its_factor_longer(world: World) -> None:
    strike(world, "slow_load", factor=3, times=1)
    assert world.load("a").load_s == 12
    assert world.load("b").load_s == 4


def test_an_unload_may_be_ignored(world: World) -> None:
    world.load("a")
    strike(world, "ignore_unload", tag="a", times=1)
    world.ask("a", empty=True, keep_alive=0)
    world.pass_s(10)
    assert world.names() == ["a"]
    world.ask("a", empty=True, keep_alive=0)
    world.pass_s(10)
    assert world.names() == []


def test_a_reply_may_end_without_done(world: World) -> None:
    """Fact 10."""
    strike(world, "done_false", tokens=2, times=1)
    ask = world.finish(world.ask("a"))
    assert (ask.state, ask.broken, ask.said) == ("done", True, 2)


def test_a_stream_may_be_cut(world: World) -> None:
    strike(world, "cut_stream", tokens=2, times=1)
    ask = world.finish(world.ask("a"))
    assert (ask.state, ask.cut) == ("failed", True)


def test_a_dead_runner_is_loaded_anew_at_the_next_request(world: World) -> None:
    """Fact 19."""
    world.load("a", keep_alive="30m")
    reply = world.ask("a", tokens=600)
    assert befall(world, "kill_runner", tag="a")
    assert reply.status == 500
    assert (world.names(), world.left_s("a")) == (["a"], 1800)
    world.finish(world.ask("a"))
    assert world.left_s("a") == 300
    assert world.server.machine.counts["loads"].total() == 2


def test_a_runner_that_died_while_it_spoke_leaves_when_its_time_is_up(world: World) -> None:
    """Fact 19."""
    world.load("a", keep_alive="30m")
    world.ask("a", tokens=600)
    befall(world, "kill_runner", tag="a")
    world.pass_s(1801)
    assert world.names() == []


def test_a_dead_runner_can_be_unloaded(world: World) -> None:
    """Fact 19."""
    world.load("a")
    befall(world, "kill_runner", tag="a")
    world.ask("a", empty=True, keep_alive=0)
    world.pass_s(1)
    assert world.names() == []


def test_an_evicted_model_is_gone_with_what_it_was_saying(world: World) -> None:
    world.load("a")
    reply = world.ask("a", tokens=600)
    assert befall(world, "evict", tag="a")
    assert (reply.status, world.names()) == (500, [])
    assert not befall(world, "evict", tag="a")


def test_a_restart_forgets_what_was_loaded_and_keeps_the_disk(world: World) -> None:
    world.load("a")
    asks = [world.ask("a", tokens=600), world.ask("b"), world.ask("c")]
    befall(world, "restart")
    assert [(a.state, a.cut) for a in asks] == [("failed", True)] * 3
    assert world.names() == []
    world.pass_s(60)
    assert world.finish(world.ask("a")).state == "done"


def test_a_repulled_name_leaves_a_ghost(world: World) -> None:
    """Fact 23."""
    world.load("a", keep_alive=-1)
    old = world.server.ps()[0].digest
    assert befall(world, "repull", tag="a")
    world.ask("a", empty=True, keep_alive=0)
    world.pass_s(1)
    assert [row.digest for row in world.server.ps()] == [old]
    world.load("a")
    assert [row.name for row in world.server.ps()] == ["a:latest"] * 2


def test_a_name_is_empty_while_it_is_copied_over(make_world: MakeWorld) -> None:
    """Fact 26."""
    world = make_world(copy_gap_s=0.001)
    world.server.copy("a", "active")
    assert world.server.resolve("active")
    world.server.copy("b", "active")
    with pytest.raises(Refused, match="EOF"):
        world.ask("active")
    world.pass_s(0.001)
    assert world.server.resolve("active") == world.server.resolve("b")


def test_a_config_says_how_many_models_there_may_be() -> None:
    assert (Config().most_loaded, Config(max_loaded=7).most_loaded) == (3, 7)
