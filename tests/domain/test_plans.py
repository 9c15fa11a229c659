"""The plan of a switch: what leaves, what comes, what fits, and why. Pure arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switcher.domain.memory import ModelFacts, Size
from switcher.domain.model_names import NO_NAME, ModelName
from switcher.domain.observed import Installed, Resident
from switcher.domain.plan_inputs import Expected, Item, PlanInputs
from switcher.domain.plans import Plan, make_plan
from switcher.domain.specs import Spec
from switcher.domain.states import PHASES, State, Strategy
from switcher.domain.wording import gb

GB = 10**9
SOON = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
LATER = datetime(2026, 11, 23, 11, 0, tzinfo=UTC)


def here(tag: str, gigabytes: float, vram: float | None = None, ctx: int = 4096) -> Resident:
    size = round(gigabytes * GB)
    in_vram = size if vram is None else round(vram * GB)
    return Resident(ModelName.parse(tag), f"sha-{tag}", size, in_vram, ctx, SOON)


def disk(tag: str, gigabytes: float) -> Installed:
    return Installed(ModelName.parse(tag), f"sha-{tag}", round(gigabytes * GB), ("completion",))


def in_both(phases: dict[str, Expected]) -> dict[Strategy, dict[str, Expected]]:
    return {Strategy.OVERLAP: phases, Strategy.SWAP: phases}


def situation(
    tag: str = "new", need: float = 8, vram: float | None = 24, **values: Any
) -> PlanInputs:
    """A 24 GB host on which `old` is active, if it is resident."""
    facts: dict[str, Any] = {
        "host": "north-1",
        "vram_bytes": None if vram is None else round(vram * GB),
        "resident": (),
        "active_digest": "sha-old",
        "active_spec": Spec("old", "old"),
        "pinned": frozenset(),
        "target": disk(tag, need / 1.2),
        "spec": Spec(tag, tag),
        "target_size": Size(round(need * GB), "as last loaded here"),
        "asked": Strategy.AUTO,
        "host_strategy": Strategy.AUTO,
        "history": {},
    }
    return PlanInputs(**(facts | values))


def left(plan: Plan) -> list[str]:
    return [i.short for i in plan.unload]


def kept(plan: Plan) -> set[str]:
    return {i.short for i in plan.keep}


# --- which strategy, and why -----------------------------------------------------------------


def test_what_fits_beside_the_old_model_overlaps_and_says_how_much_is_free() -> None:
    plan = make_plan(situation(resident=(here("old", 10),)))
    assert plan.strategy is Strategy.OVERLAP
    assert plan.strategy_reason == "8.0 GB fit beside what is loaded: 14.0 GB are free"
    assert (left(plan), plan.fits, plan.short_bytes) == (["old"], True, 0)
    assert (plan.bytes_before, plan.bytes_after, plan.bytes_peak) == (10 * GB, 8 * GB, 18 * GB)
    assert plan.free_after == 16 * GB
    assert plan.without_model_s == 0.0


def test_what_does_not_fit_beside_the_old_model_swaps_and_says_how_much_is_free() -> None:
    plan = make_plan(situation(need=20, resident=(here("old", 10),)))
    assert plan.strategy is Strategy.SWAP
    assert plan.strategy_reason == "20.0 GB do not fit beside what is loaded: 14.0 GB are free"
    assert (plan.fits, plan.bytes_peak) == (True, 20 * GB)


def test_what_takes_four_fifths_of_what_is_free_overlaps_and_more_does_not() -> None:
    """Above that Ollama evicts by itself, so there would be a moment without a model."""
    s = situation(need=8, resident=(here("old", 10),), vram_bytes=20 * GB)
    assert make_plan(s).strategy is Strategy.OVERLAP
    tight = make_plan(replace(s, vram_bytes=20 * GB - 1))
    assert tight.strategy is Strategy.SWAP
    assert tight.strategy_reason == (
        "8.0 GB are too tight beside what is loaded: 10.0 GB are free, "
        "and Ollama evicts by itself above 80 % of that"
    )


def test_an_empty_host_has_nothing_to_wait_for() -> None:
    plan = make_plan(situation(need=20))
    assert plan.strategy is Strategy.OVERLAP
    assert plan.strategy_reason == "nothing is loaded, so nothing has to leave first"
    assert not plan.restore


def test_an_unknown_vram_swaps_and_claims_nothing() -> None:
    plan = make_plan(situation(vram=None, resident=(here("old", 10),)))
    assert plan.strategy is Strategy.SWAP
    assert plan.strategy_reason == "the host's VRAM is not set, so the old model leaves first"
    assert (plan.fits, plan.short_bytes, plan.free_after) == (None, 0, None)


def test_an_unknown_size_swaps_and_claims_nothing() -> None:
    plan = make_plan(situation(target_size=Size(0, ""), resident=(here("old", 10),)))
    assert plan.strategy is Strategy.SWAP
    assert "size is not known" in plan.strategy_reason
    assert plan.fits is None


@pytest.mark.parametrize("asked", [Strategy.OVERLAP, Strategy.SWAP])
def test_what_is_asked_for_is_done_before_what_is_set(asked: Strategy) -> None:
    other = Strategy.SWAP if asked is Strategy.OVERLAP else Strategy.OVERLAP
    s = situation(resident=(here("old", 10),), host_strategy=other)
    assert make_plan(s).strategy is other
    assert make_plan(s).strategy_reason == f"{other.value} was set for north-1"
    plan = make_plan(replace(s, asked=asked))
    assert (plan.strategy, plan.strategy_reason) == (asked, f"{asked.value} was asked for")


def test_a_strategy_that_is_forced_says_at_its_peak_what_it_costs() -> None:
    plan = make_plan(situation(need=20, resident=(here("old", 10),), asked=Strategy.OVERLAP))
    assert plan.bytes_peak == 30 * GB > plan.vram_bytes


# --- what leaves -----------------------------------------------------------------------------


def test_foreign_models_stay_while_there_is_room() -> None:
    plan = make_plan(situation(resident=(here("old", 10), here("theirs", 4))))
    assert (left(plan), kept(plan)) == (["old"], {"theirs"})


def test_foreign_models_leave_largest_first_and_only_as_far_as_needed() -> None:
    rows = (here("old", 10), here("small", 1), here("large", 6), here("middle", 3))
    plan = make_plan(situation(need=18, resident=rows))
    assert left(plan) == ["old", "large"]
    assert plan.unload[1].why == "to make room"
    assert kept(plan) == {"small", "middle"}
    assert (plan.fits, plan.bytes_after) == (True, 22 * GB)


def test_pinned_models_never_leave_even_where_that_does_not_fit() -> None:
    rows = (here("old", 10), here("mine", 12), here("theirs", 1))
    plan = make_plan(situation(need=20, resident=rows, pinned=frozenset({"sha-mine"})))
    assert (left(plan), kept(plan)) == (["old", "theirs"], {"mine"})
    assert (plan.fits, plan.short_bytes) == (False, 8 * GB)


def test_where_the_vram_is_unknown_only_the_old_model_leaves() -> None:
    plan = make_plan(situation(vram=None, need=80, resident=(here("old", 10), here("theirs", 9))))
    assert left(plan) == ["old"]


def test_an_active_model_that_is_not_there_cannot_leave() -> None:
    plan = make_plan(situation(resident=(here("theirs", 4),)))
    assert (left(plan), plan.restore) == ([], NO_NAME)


@pytest.mark.fact(23)
def test_a_ghost_of_the_new_models_name_is_another_model() -> None:
    ghost = replace(here("new", 5), digest="sha-before-the-pull")
    plan = make_plan(situation(resident=(ghost,)))
    assert [i.digest for i in plan.keep] == ["sha-before-the-pull"]
    assert not plan.already_active


@pytest.mark.fact(18)
def test_on_a_host_without_a_gpu_memory_is_what_counts() -> None:
    plan = make_plan(situation(resident=(here("old", 10, vram=0),)))
    assert plan.bytes_before == 10 * GB


# --- blocked ---------------------------------------------------------------------------------


NAMED = {"published": "active:latest", "cannot_publish": "north-1 has a model active."}


def test_a_plan_whose_published_name_cannot_be_pointed_is_blocked() -> None:
    plan = make_plan(situation(resident=(here("old", 10),), **NAMED))
    assert (plan.blocked, plan.published) == ("north-1 has a model active.", "")


def test_what_is_active_is_loaded_anew_whatever_its_published_name_means() -> None:
    plan = make_plan(situation(tag="old", **NAMED))
    assert (plan.blocked, plan.published) == ("", "")
    assert plan.cannot_publish == "north-1 has a model active."


def test_a_model_that_is_not_on_the_disk_blocks_and_says_what_to_do() -> None:
    plan = make_plan(situation(target=None, spec=Spec("p", "new:14b")))
    assert plan.blocked == "new:14b is not on north-1. Pull it there first: ollama pull new:14b"
    assert (plan.digest, plan.already_active) == ("", False)


def test_too_large_is_no_bar_unless_the_profile_wants_it_on_the_gpu() -> None:
    s = situation(need=30)
    assert (make_plan(s).blocked, make_plan(s).short_bytes) == ("", 6 * GB)
    strict = replace(s, spec=Spec("new", "new", min_gpu_percent=90))
    assert make_plan(strict).blocked == (
        "Does not fit: 6.0 GB short, and profile new wants 90 % of it on the GPU."
    )
    lenient = replace(s, spec=Spec("new", "new", min_gpu_percent=90, floor_fails=False))
    assert make_plan(lenient).blocked == ""


# --- already there ---------------------------------------------------------------------------

OLD = Spec("old", "old")


def active(**values: Any) -> PlanInputs:
    facts: dict[str, Any] = {"resident": (here("old", 10),), "spec": OLD, "active_spec": OLD}
    return situation(tag="old", **(facts | values))


def test_what_is_active_and_resident_is_active_already() -> None:
    plan = make_plan(active())
    assert plan.already_active
    assert (left(plan), plan.bytes_after, plan.without_model_s) == ([], 10 * GB, 0.0)


def test_what_is_active_already_makes_nobody_leave() -> None:
    plan = make_plan(active(resident=(here("old", 20), here("theirs", 9))))
    assert plan.already_active
    assert (left(plan), kept(plan), plan.bytes_after) == ([], {"theirs"}, plan.bytes_before)


@pytest.mark.parametrize(
    "changes",
    [
        {"resident": ()},
        {"resident": (replace(here("old", 10), digest="sha-ghost"),)},
        {"active_digest": "sha-other"},
        {"active_spec": None},
        {"active_spec": replace(OLD, keep_alive="forever")},
        {"active_spec": Spec("another", "old")},
        {"target": None},
    ],
    ids=repr,
)
def test_anything_else_is_a_switch(changes: dict[str, Any]) -> None:
    assert not make_plan(active(**changes)).already_active


@pytest.mark.fact(12)
def test_another_context_reloads_and_its_size_is_not_the_one_of_now() -> None:
    spec = replace(OLD, options={"num_ctx": 8192})
    plan = make_plan(active(spec=spec, active_spec=spec))
    assert not plan.already_active
    assert plan.load.bytes == 8 * GB, "what it took with another context says nothing"
    same = replace(OLD, options={"num_ctx": 4096})
    assert make_plan(active(spec=same, active_spec=same)).already_active


def test_a_resident_model_takes_what_it_takes_now() -> None:
    s = situation(resident=(here("old", 10), here("new", 9)), pinned=frozenset({"sha-new"}))
    plan = make_plan(s)
    assert (plan.load.bytes, plan.load.why) == (9 * GB, "as loaded now")
    assert (left(plan), kept(plan), plan.bytes_after) == (["old"], set(), 9 * GB)


# --- the token -------------------------------------------------------------------------------

BASE = situation(resident=(here("old", 10), here("theirs", 4)))


@pytest.mark.parametrize(
    "other",
    [
        replace(BASE, resident=BASE.resident[::-1]),
        replace(BASE, resident=tuple(replace(r, expires_at=LATER) for r in BASE.resident)),
        replace(BASE, resident=tuple(replace(r, expires_at=None) for r in BASE.resident)),
        replace(BASE, history=in_both({"loading": Expected(5, "the last switch to it here")})),
    ],
)
def test_the_token_stays_while_the_plan_holds(other: PlanInputs) -> None:
    assert make_plan(other).token == make_plan(BASE).token


@pytest.mark.parametrize(
    "other",
    [
        replace(BASE, resident=BASE.resident[:1]),
        replace(BASE, resident=(*BASE.resident, here("third", 1))),
        replace(BASE, resident=(here("old", 10), here("theirs", 5))),
        replace(BASE, resident=(here("old", 10, vram=4), here("theirs", 4))),
        replace(BASE, resident=(here("old", 10, ctx=8192), here("theirs", 4))),
        replace(BASE, active_digest="sha-theirs"),
        replace(BASE, spec=Spec("new", "new", keep_alive="forever")),
        replace(BASE, spec=Spec("new", "new", options={"num_ctx": 8192})),
        replace(BASE, target=replace(disk("new", 7), digest="sha-pulled-anew")),
        replace(BASE, target=None),
        replace(BASE, vram_bytes=12 * GB),
        replace(BASE, vram_bytes=None),
        replace(BASE, pinned=frozenset({"sha-theirs"})),
        replace(BASE, asked=Strategy.SWAP),
        replace(BASE, host_strategy=Strategy.SWAP),
    ],
)
def test_the_token_changes_when_the_plan_may_no_longer_hold(other: PlanInputs) -> None:
    assert make_plan(other).token != make_plan(BASE).token


def test_the_order_in_which_options_were_written_is_no_change() -> None:
    one = replace(BASE, spec=Spec("new", "new", options={"num_ctx": 1, "num_gpu": 2}))
    two = replace(BASE, spec=Spec("new", "new", options={"num_gpu": 2, "num_ctx": 1}))
    assert make_plan(one).token == make_plan(two).token


# --- expectations ----------------------------------------------------------------------------


def test_expected_seconds_are_the_sum_of_the_phases_of_this_strategy() -> None:
    history = {
        "checking": Expected(0.1, "a"),
        "draining": Expected(100, "only a swap drains"),
        "loading": Expected(4, "b"),
        "warming": Expected(0.4, "c"),
    }
    overlap = make_plan(situation(history=in_both(history)))
    assert overlap.expected_s == pytest.approx(4.5)
    assert list(overlap.expected) == ["checking", "loading", "warming"]
    swap = make_plan(
        situation(history=in_both(history), asked=Strategy.SWAP, resident=(here("old", 9),))
    )
    assert swap.expected_s == swap.without_model_s == pytest.approx(104.5)


def test_where_no_load_was_measured_nothing_is_claimed() -> None:
    plan = make_plan(
        situation(history=in_both({"checking": Expected(0.1, "a")}), asked=Strategy.SWAP)
    )
    assert (plan.expected_s, plan.without_model_s) == (None, None)


# --- what holds for every plan ---------------------------------------------------------------

NAMES = ["old", "new", "m1", "m2", "m3", "m4"]


@st.composite
def situations(draw: st.DrawFn) -> PlanInputs:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5))
    sizes = st.integers(0, 40 * GB)
    rows = tuple(
        Resident(
            ModelName.parse(n),
            f"sha-{n}",
            draw(sizes),
            draw(sizes | st.just(0)),
            draw(st.sampled_from([0, 4096, 8192])),
            draw(st.sampled_from([SOON, LATER, None])),
        )
        for n in names
    )
    specs = st.builds(
        Spec,
        profile=st.just("p"),
        tag=st.sampled_from(["new", "old"]),
        options=st.sampled_from([{}, {"num_ctx": 4096}]),
        min_gpu_percent=st.sampled_from([None, 90]),
        floor_fails=st.booleans(),
    )
    spec = draw(specs)
    digests = [f"sha-{n}" for n in NAMES]
    return PlanInputs(
        host="north-1",
        vram_bytes=draw(st.none() | sizes),
        resident=rows,
        active_digest=draw(st.sampled_from(["", "sha-old", "sha-new"])),
        active_spec=draw(st.none() | st.just(spec) | specs),
        pinned=frozenset(draw(st.lists(st.sampled_from(digests), max_size=3))),
        target=draw(st.none() | st.just(disk(spec.tag, 5))),
        spec=spec,
        target_size=Size(draw(sizes), "about"),
        asked=draw(st.sampled_from(Strategy)),
        host_strategy=draw(st.sampled_from(Strategy)),
        history=in_both(
            draw(
                st.dictionaries(
                    st.sampled_from([p.value for p in State]),
                    st.builds(Expected, st.floats(0, 100), st.just("x")),
                )
            )
        ),
        missing=tuple(
            Item(ModelName.parse(n), f"sha-{n}", draw(sizes), "pinned")
            for n in draw(st.sets(st.sampled_from(["pin-a", "pin-b"])))
        ),
        ours=frozenset(draw(st.lists(st.sampled_from(digests), max_size=3))),
        usual_gpu_percent=draw(st.none() | st.integers(0, 100)),
    )


@settings(max_examples=400)
@given(situations())
def test_every_plan_adds_up(s: PlanInputs) -> None:
    plan = make_plan(s)
    leaves = {i.digest for i in plan.unload}
    stays = {i.digest for i in plan.keep}
    there = {r.digest for r in s.resident}

    assert not leaves & stays, "nothing both stays and leaves"
    assert (leaves | stays) - {plan.digest} == there - {plan.digest}, (
        "nothing is forgotten, nothing invented"
    )
    if plan.digest in leaves:
        assert plan.digest == s.active_digest, "only what fell to the CPU leaves and comes"
        assert plan.strategy is Strategy.SWAP
    assert len(plan.unload) + len(plan.keep) == len(leaves | stays)

    pinned = sum(i.bytes for i in plan.reload)
    assert plan.bytes_after == sum(i.bytes for i in plan.keep) + plan.load.bytes + pinned
    assert {i.digest for i in plan.reload} == {i.digest for i in s.missing}
    assert plan.bytes_peak >= plan.bytes_after
    assert plan.strategy is not Strategy.AUTO
    assert plan.strategy_reason

    old = s.active_digest
    if old and old in there and old != plan.digest and not plan.already_active:
        assert old in leaves
        assert plan.restore
    for item in plan.unload:
        assert item.role in ("active", "former", "foreign"), "pinned models never leave"
        assert item.digest not in s.pinned or item.digest == old

    assert plan.short_bytes >= 0
    if plan.fits is not None and not plan.already_active:
        assert plan.fits == (plan.bytes_after <= s.vram_bytes)
        assert plan.short_bytes == max(0, plan.bytes_after - s.vram_bytes)
    # Where the model itself stays, there is nothing to choose.
    chosen = s.asked is s.host_strategy is Strategy.AUTO and not plan.stays
    if chosen and plan.fits is not None:
        fits_beside = plan.bytes_peak <= s.vram_bytes if plan.strategy is Strategy.OVERLAP else None
        assert fits_beside in (True, None) or not s.resident
    if plan.already_active:
        assert not leaves
        assert plan.bytes_after <= plan.bytes_before or s.resident

    assert set(plan.expected) <= {p.value for p in PHASES[plan.strategy]}
    if plan.expected_s is not None:
        assert plan.expected_s == pytest.approx(sum(e.seconds for e in plan.expected.values()))
    json.dumps(plan.to_json(), allow_nan=False)


@settings(max_examples=300)
@given(situations())
def test_no_foreign_model_leaves_without_need(s: PlanInputs) -> None:
    plan = make_plan(s)
    foreign = [i for i in plan.unload if i.role == "foreign"]
    if not foreign:
        return
    assert s.vram_bytes is not None
    assert [i.bytes for i in foreign] == sorted((i.bytes for i in foreign), reverse=True)
    assert plan.bytes_after + foreign[-1].bytes > s.vram_bytes, "the last one had to go"
    stays = [i.bytes for i in plan.keep if i.role == "foreign"]
    assert not stays or max(stays) <= foreign[-1].bytes, "the largest go first"


@given(situations(), st.sampled_from([SOON, LATER, None]))
def test_no_plan_depends_on_when_things_expire(s: PlanInputs, at: datetime | None) -> None:
    moved = replace(s, resident=tuple(replace(r, expires_at=at) for r in s.resident))
    assert make_plan(moved) == make_plan(s)


# --- pinned models that are missing, former ones, a fall to the CPU ------------------------

PIN = Item(ModelName.parse("embed"), "sha-embed", 2 * GB, "pinned", "as last loaded here")
AS_ACTIVE: dict[str, Any] = {
    "tag": "old",
    "spec": Spec("old", "old"),
    "target": disk("old", 8),
    "need": 10,
}


def test_missing_pins_are_loaded_and_their_bytes_are_counted() -> None:
    plan = make_plan(situation(resident=(here("old", 10),), missing=(PIN,)))
    assert plan.reload == (PIN,)
    assert (plan.bytes_after, plan.bytes_peak) == (10 * GB, 20 * GB)
    assert plan.strategy_reason == (
        "10.0 GB, 2.0 of them pinned models, fit beside what is loaded: 14.0 GB are free"
    )


def test_pins_make_a_swap_of_what_would_fit_alone() -> None:
    rows = (here("old", 10),)
    assert make_plan(situation(need=11, resident=rows)).strategy is Strategy.OVERLAP
    assert make_plan(situation(need=11, resident=rows, missing=(PIN,))).strategy is Strategy.SWAP


def test_that_only_a_pin_does_not_fit_bars_no_switch() -> None:
    spec = Spec("new", "new", min_gpu_percent=90)
    plan = make_plan(situation(need=23, spec=spec, missing=(PIN,)))
    assert (plan.blocked, plan.short_bytes, plan.fits) == ("", 1 * GB, False)


def test_where_the_model_is_active_already_missing_pins_come_beside_it() -> None:
    plan = make_plan(situation(**AS_ACTIVE, resident=(here("old", 10),), missing=(PIN,)))
    assert (plan.already_active, plan.stays) == (False, True)
    assert plan.strategy is Strategy.OVERLAP, "nobody waits"
    assert (left(plan), plan.reload) == ([], (PIN,))
    assert plan.expected == {}, "how long a load takes tells nothing here"


def test_what_a_switch_loaded_and_nobody_wants_any_more_leaves() -> None:
    rows = (here("old", 10), here("former", 2), here("theirs", 2))
    facts: dict[str, Any] = {"resident": rows, "ours": frozenset({"sha-former", "sha-old"})}
    plan = make_plan(situation(**AS_ACTIVE, **facts))
    assert (left(plan), kept(plan), plan.already_active) == (["former"], {"theirs"}, False)
    pinned = make_plan(situation(**AS_ACTIVE, **facts, pinned=frozenset({"sha-former"})))
    assert pinned.already_active


@pytest.mark.parametrize(
    ("usual", "floor", "leaves"),
    [(100, None, True), (None, 90, True), (52, None, False), (50, 90, False), (None, None, False)],
)
def test_an_active_model_that_fell_to_the_cpu_leaves_and_comes_again(
    usual: int | None, floor: int | None, leaves: bool
) -> None:
    spec = Spec("old", "old", min_gpu_percent=floor)
    half = replace(here("old", 10), size_vram=5 * GB)
    facts = AS_ACTIVE | {"spec": spec, "active_spec": spec, "asked": Strategy.OVERLAP}
    plan = make_plan(situation(**facts, resident=(half,), usual_gpu_percent=usual))
    assert (left(plan) == ["old"], plan.already_active) == (leaves, not leaves)
    if leaves:
        assert plan.strategy is Strategy.SWAP, "a load beside itself changes nothing"
        assert "it leaves and is loaded anew: 50 % of it is on the GPU" in plan.strategy_reason


def test_gigabytes_are_decimal_and_short() -> None:
    assert [gb(n) for n in (0, 49_999_999, 5_120_000_000, 5 * 2**30)] == [
        "0.0",
        "0.0",
        "5.1",
        "5.4",
    ]


# --- contexts and limits ---------------------------------------------------------------------

KIB = 1024
CACHE = ModelFacts(token_bytes=100_000, trained_context=131_072)


def test_a_model_that_does_not_fit_names_the_context_with_which_it_would() -> None:
    context, weights = 131_072, 18
    size = Size(weights * GB + CACHE.kv_bytes(context), "about, computed")
    s = situation(need=weights, context=context, facts=CACHE, target_size=size)
    plan = make_plan(replace(s, target=disk("new", weights)))
    assert plan.fits is False
    assert plan.fits_context == 58 * KIB
    assert plan.context_advice == (
        "it fits with up to 59,392 tokens of context; "
        "with 131,072 tokens of context it lacks 7.1 GB"
    )


def test_a_model_that_fits_needs_no_advice() -> None:
    plan = make_plan(situation(context=4096, facts=CACHE))
    assert (plan.fits, plan.fits_context, plan.context_advice) == (True, 0, "")


def test_a_larger_context_than_the_server_gives_is_a_warning_and_no_reload() -> None:
    spec = Spec("old", "old", options={"num_ctx": 200_000})
    s = situation(
        "old",
        resident=(here("old", 8, ctx=131_072),),
        active_spec=spec,
        spec=spec,
        context=131_072,
    )
    plan = make_plan(s)
    assert plan.already_active
    assert plan.warnings == (
        "200,000 tokens of context are asked for, and old gets 131,072 here, "
        "which is the most that the server gives it.",
    )


def test_an_overlap_that_would_evict_a_model_is_none() -> None:
    s = situation(resident=(here("old", 4), here("pin", 2)), pinned=frozenset({"sha-pin"}))
    assert make_plan(replace(s, max_loaded=3)).strategy is Strategy.OVERLAP
    plan = make_plan(replace(s, max_loaded=2))
    assert plan.strategy is Strategy.SWAP
    assert plan.strategy_reason == (
        "Ollama keeps at most 2 loaded here, and an overlap would make it 3, "
        "so that Ollama would evict one by itself"
    )
    assert plan.warnings == ()
    asked = make_plan(replace(s, max_loaded=2, asked=Strategy.OVERLAP))
    assert asked.strategy is Strategy.SWAP
    assert asked.strategy_reason.startswith("overlap was asked for, but Ollama keeps at most 2")


def test_with_one_model_at_once_auto_swaps() -> None:
    s = situation(resident=(here("old", 4),), max_loaded=1)
    assert make_plan(s).strategy is Strategy.SWAP


def test_foreign_models_leave_where_the_server_would_evict_one() -> None:
    s = situation(resident=(here("old", 4), here("other", 1)), max_loaded=1)
    assert left(make_plan(s)) == ["old", "other"]


def test_pinned_models_that_the_server_would_evict_are_a_warning() -> None:
    s = situation(
        resident=(here("old", 4), here("pin", 2)), pinned=frozenset({"sha-pin"}), max_loaded=1
    )
    (warning,) = make_plan(s).warnings
    assert "it will evict 1 of those that stay" in warning


def test_a_model_that_is_partly_on_the_gpu_shows_both_of_its_sizes() -> None:
    """Counted alike for what is loaded and for what comes."""
    s = situation("old", resident=(here("old", 10, vram=6),), spec=Spec("other", "old"))
    plan = make_plan(s)
    assert (plan.load.bytes, plan.load.total) == (6 * GB, 10 * GB)
    assert plan.bytes_before == plan.bytes_after == 6 * GB
