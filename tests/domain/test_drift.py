"""What a reading shows that is not as desired."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from switcher.domain.drift import (
    GONE,
    REPAIRED,
    WORDS,
    Desired,
    DesiredModel,
    DriftFinding,
    Kind,
    LastSeen,
    ReadingHistory,
)
from switcher.domain.drift_rules import ending_text, find_drift, kinds_shown
from switcher.domain.model_names import NO_NAME, ModelName
from switcher.domain.observed import Installed, Observation, Resident
from switcher.domain.published_name import PublishedName
from switcher.domain.specs import FOREVER, Spec
from tests import make

T0 = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
GB = 1_000_000_000
HALF_HOUR = timedelta(minutes=30)


def after(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def row(tag: str = "mid-a", at: datetime = T0, **values: Any) -> Resident:
    """Loaded for half an hour more, all on the GPU."""
    made = Resident(ModelName.parse(tag), f"sha-{tag}", 5 * GB, 5 * GB, 4096, at + HALF_HOUR)
    return replace(made, **values)


DISK = tuple(
    Installed(ModelName.parse(t), f"sha-{t}", 5 * GB) for t in ("mid-a", "mid-b", "embed", "other")
)


def seen(*rows: Resident, at: datetime = T0, **values: Any) -> Observation:
    return Observation(**{"at": at, "resident": rows, "installed": DISK, **values})


def silent(at: datetime) -> Observation:
    return Observation(at, error="Connection refused at http://127.0.0.1:9.")


ACTIVE = DesiredModel("sha-mid-a", Spec("a", "mid-a"), True, gpu_percent=100, context_length=4096)
PINNED = DesiredModel("", Spec("embed", "embed"))
WISH = Desired("north-1", ACTIVE)


def active(**spec: Any) -> Desired:
    return Desired("north-1", replace(ACTIVE, spec=replace(ACTIVE.spec, **spec)))


def after_all(
    readings: Iterable[Observation], desired: Desired = WISH
) -> tuple[ReadingHistory, Any]:
    """Judge the readings in turn, as the watcher does; gives what was found in the last."""
    history, found = ReadingHistory(), ()
    for each in readings:
        found = find_drift(desired, history, each)
        keys = {f.key for f in found}
        if not each.answered:
            keys |= {k for k in history.open if k[0] != "unreachable"}
        history = replace(history.after(each), open=frozenset(keys))
    return history, found


def one(*readings: Observation, desired: Desired = WISH) -> DriftFinding:
    _, found = after_all(readings, desired)
    assert len(found) == 1, [f.text for f in found]
    return found[0]


def kinds(*readings: Observation, desired: Desired = WISH) -> list[str]:
    return [f.kind.value for f in after_all(readings, desired)[1]]


# --- as desired --------------------------------------------------------------------------------


def test_what_is_as_desired_is_no_drift() -> None:
    assert kinds(seen(row()), seen(row(at=after(60)), at=after(60))) == []


def test_where_nothing_is_desired_models_of_others_are_no_drift() -> None:
    assert kinds(seen(row("other")), desired=Desired("north-1")) == []


def test_a_name_under_which_it_was_loaded_counts_for_nothing() -> None:
    assert kinds(seen(row(name="published:latest")), desired=WISH) == []


# --- the published name ------------------------------------------------------------------------

PUB, MID_A = ModelName.parse("pub"), ModelName.parse("mid-a")
NAME = PublishedName("north-1", PUB, PUB, MID_A, "sha-mid-a", MID_A, "sha-mid-a")
NOT_OURS = (
    "north-1 has a model pub that is not Switchboard's. "
    "Choose another published name, or remove that model."
)
NAME_CASES: dict[str, tuple[PublishedName, str, list[str]]] = {
    "as it should be": (NAME, "sha-mid-a", []),
    "removed": (NAME, "", ["pub should point to mid-a, but is not on the host."]),
    "pointed elsewhere": (
        NAME,
        "sha-mid-b",
        ["pub should point to mid-a, but points to other content."],
    ),
    "written over by somebody": (NAME, "sha-strange", [NOT_OURS]),
    "only now to be made": (replace(NAME, name=NO_NAME), "", []),
    "taken before it was ours": (replace(NAME, name=NO_NAME), "sha-mid-b", [NOT_OURS]),
    "none wanted": (replace(NAME, wanted=NO_NAME), "sha-mid-b", []),
}


@pytest.mark.parametrize(("name", "means", "told"), NAME_CASES.values(), ids=NAME_CASES.keys())
def test_a_published_name_is_drift_unless_it_means_the_active_model(
    name: PublishedName, means: str, told: list[str]
) -> None:
    disk = (*DISK, Installed(ModelName.parse("pub"), means, GB)) if means else DISK
    _, found = after_all([seen(row(), installed=disk)], replace(WISH, published=name))
    assert [f.text for f in found] == told


# --- gone --------------------------------------------------------------------------------------

GONE_CASES = {
    "long before its time is over": ([seen(row()), seen(at=after(3))], Kind.EVICTED),
    "for ever, and gone": (
        [seen(row(expires_at=datetime(2319, 1, 1, tzinfo=UTC))), seen(at=after(3))],
        Kind.EVICTED,
    ),
    "another model in its place": (
        [seen(row()), seen(row("other"), at=after(3), reconnected=False)],
        Kind.EVICTED,
    ),
    "others stay": (
        [seen(row(), row("other")), seen(row("other"), at=after(3), reconnected=True)],
        Kind.EVICTED,
    ),
    "its time is over": (
        [seen(row(expires_at=after(2))), seen(at=after(3))],
        Kind.EXPIRED,
    ),
    "its time is over all but some seconds": (
        [seen(row(expires_at=after(7))), seen(at=after(3))],
        Kind.EXPIRED,
    ),
    "its time is over by the server's clock, which is behind": (
        [
            seen(row(expires_at=after(-298)), clock_ahead_s=-300.0),
            seen(at=after(3), clock_ahead_s=-300.0),
        ],
        Kind.EXPIRED,
    ),
    "not yet over by the server's clock": (
        [
            seen(row(expires_at=after(-100)), clock_ahead_s=-300.0),
            seen(at=after(3), clock_ahead_s=-300.0),
        ],
        Kind.EVICTED,
    ),
    "the connection was closed": (
        [seen(row()), seen(at=after(3), reconnected=True)],
        Kind.RESTARTED,
    ),
    "it did not answer in between": (
        [seen(row()), silent(after(3)), seen(at=after(5))],
        Kind.RESTARTED,
    ),
    "several at once": (
        [seen(row(), row("other")), seen(at=after(3))],
        Kind.RESTARTED,
    ),
    "never seen": ([seen()], Kind.MISSING),
}


@pytest.mark.parametrize("case", GONE_CASES.values(), ids=GONE_CASES)
def test_why_a_model_is_gone(case: tuple[list[Observation], Kind]) -> None:
    readings, kind = case
    found = [f for f in after_all(readings)[1] if f.kind in GONE]
    assert [f.kind for f in found] == [kind]
    assert (found[0].model, found[0].digest) == ("mid-a", "sha-mid-a")


def test_what_was_found_at_first_stays_so_until_it_is_back() -> None:
    gone = [seen(row()), seen(at=after(3))]
    assert kinds(*gone, seen(at=after(3600)), silent(after(3605)), seen(at=after(3610))) == [
        "evicted"
    ]
    assert kinds(*gone, seen(row(at=after(9)), at=after(9))) == []


def test_the_evidence_names_what_was_wanted_and_seen_with_times() -> None:
    found = one(seen(row()), seen(at=after(3)))
    assert found.text == (
        "mid-a was evicted: at 10:00:00 it was still loaded and was due to unload at 10:30:00."
    )
    assert found.evidence["wanted"]["keep_alive"] == "30m"
    before, now = found.evidence["before"], found.evidence["now"]
    assert (before["at"], before["size"]) == (T0.isoformat(), 5 * GB)
    assert before["expires_at"] == (T0 + HALF_HOUR).isoformat()
    assert (now["at"], now["resident"], now["failures_before"]) == (after(3).isoformat(), [], 0)


def test_who_took_its_place_is_named() -> None:
    found = after_all([seen(row()), seen(row("other"), at=after(3))])[1]
    assert "Loaded since then: other." in found[0].text


def test_several_gone_at_once_leave_open_what_it_was() -> None:
    found = one(seen(row(), row("other")), seen(at=after(3)))
    assert "either the server restarted, or somebody unloaded them all" in found.text


# --- still there, but not as it was ------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "num_ctx", "verified", "drifts"),
    [
        (8192, None, 4096, True),
        (4096, 8192, 0, True),
        (8192, 8192, 0, False),
        (4096, 8192, 4096, False),  # the server allows less, and did when it was verified
        (0, 8192, 8192, False),  # an older server does not say
        (9999, None, 0, False),  # nothing to compare it with
    ],
)
def test_another_context_length_is_a_reload(
    context: int, num_ctx: int | None, verified: int, drifts: bool
) -> None:
    options = {"num_ctx": num_ctx} if num_ctx else {}
    wanted = replace(ACTIVE, spec=Spec("a", "mid-a", options=options), context_length=verified)
    found = kinds(seen(row(context_length=context)), desired=Desired("north-1", wanted))
    assert found == (["reloaded"] if drifts else [])


def test_forever_that_became_finite_is_shortened() -> None:
    assert one(seen(row()), desired=active(keep_alive=FOREVER)).kind is Kind.SHORTENED
    stays = row(expires_at=datetime(2319, 1, 1, tzinfo=UTC))
    assert kinds(seen(stays), desired=active(keep_alive=FOREVER)) == []


@pytest.mark.parametrize(
    ("then", "drifts"),
    [
        (after(3) + timedelta(minutes=1), True),
        # Later than before, and yet not as long as the profile says from when it was asked.
        (T0 + HALF_HOUR - timedelta(minutes=3), True),
        (after(3) + HALF_HOUR, False),
        (T0 + HALF_HOUR - timedelta(seconds=2), False),
    ],
)
def test_an_expiry_that_moved_to_less_than_a_keep_alive_is_shortened(
    then: datetime, drifts: bool
) -> None:
    readings = [seen(row()), seen(row(expires_at=then), at=after(3))]
    assert kinds(*readings) == (["shortened"] if drifts else [])


@pytest.mark.parametrize(
    ("expires_at", "drifts"),
    [
        (datetime(2319, 1, 1, tzinfo=UTC), True),
        (after(3) + timedelta(hours=2), True),
        (after(3) + HALF_HOUR, False),
        (after(3) + HALF_HOUR + timedelta(seconds=3), False),
    ],
)
def test_an_expiry_later_than_a_whole_keep_alive_is_lengthened(
    expires_at: datetime, drifts: bool
) -> None:
    readings = [seen(row()), seen(row(expires_at=expires_at), at=after(3))]
    assert kinds(*readings) == (["lengthened"] if drifts else [])
    assert kinds(*readings, desired=active(keep_alive=FOREVER)).count("lengthened") == 0


def test_a_client_that_keeps_it_for_ever_is_named() -> None:
    stays = row(expires_at=datetime(2319, 1, 1, tzinfo=UTC))
    assert "is to stay forever, although its keep-alive is set to 30m" in one(seen(stays)).text


def test_a_reload_that_only_the_size_shows_is_named() -> None:
    desired = replace(WISH, verified={"sha-mid-a": row()})
    found = one(seen(row(size=6 * GB, size_vram=6 * GB)), desired=desired)
    assert (found.kind, "6.0 GB instead of 5.0 GB" in found.text) == (Kind.RELOADED, True)
    almost = round(5.05 * GB)
    assert kinds(seen(row(size=almost, size_vram=almost)), desired=desired) == []
    assert kinds(seen(row(size=6 * GB, size_vram=5 * GB)), desired=desired) != ["reloaded"]


def test_a_name_that_pointed_elsewhere_and_is_gone_is_said_to_be_gone() -> None:
    moved = tuple(i for i in DISK if i.name.short != "mid-a")
    other = (*moved, Installed(ModelName.parse("mid-a"), "sha-new", 5 * GB))
    first = one(seen(row(), installed=other))
    assert "now points to" in first.text
    then = one(seen(row(), installed=moved))
    assert (then.key, "is no longer on the host" in then.text) == (first.key, True)


def test_a_model_that_is_still_gone_keeps_why_it_left_until_the_server_restarts_again() -> None:
    key = (Kind.EVICTED.value, "sha-mid-a")
    history = ReadingHistory().after(seen(row())).after(seen(at=after(3)))
    history = replace(history, open=frozenset({key}), open_texts={key: "It was evicted."})
    (kept,) = find_drift(WISH, history, seen(at=after(60)))
    assert kept.text == "It was evicted."
    (again,) = find_drift(WISH, history.after(silent(after(62))), seen(at=after(65)))
    assert (again.key, "The server restarted" in again.text) == (key, True)


def test_a_short_keep_alive_late_in_a_long_one_is_seen_too() -> None:
    late = after(28 * 60)
    readings = [
        seen(row()),
        seen(row(), at=late),
        seen(row(expires_at=late + timedelta(minutes=4)), at=late + timedelta(seconds=3)),
    ]
    assert kinds(*readings) == ["shortened"]


def test_it_stays_shortened_until_its_clock_starts_anew() -> None:
    short = row(expires_at=after(63))
    readings = [seen(row()), seen(short, at=after(3)), seen(short, at=after(20))]
    assert kinds(*readings) == ["shortened"]
    assert kinds(*readings, seen(row(at=after(23)), at=after(24))) == []


def test_a_clock_that_runs_ahead_or_behind_shortens_nothing() -> None:
    for ahead in (-300.0, 300.0):
        clock = timedelta(seconds=ahead)
        readings = [
            seen(row(expires_at=T0 + clock + HALF_HOUR), clock_ahead_s=ahead),
            seen(row(expires_at=after(8) + clock + HALF_HOUR), at=after(9), clock_ahead_s=ahead),
        ]
        assert kinds(*readings) == []


def test_keep_alive_nought_is_never_shortened() -> None:
    readings = [seen(row()), seen(row(expires_at=after(4)), at=after(3))]
    assert kinds(*readings, desired=active(keep_alive="0")) == []


@pytest.mark.parametrize(
    ("share", "floor", "usual", "drifts"),
    [
        (40, None, 100, True),
        (97, None, 100, False),
        (60, 80, None, True),
        (60, 80, 60, False),  # it was activated so, with a warning
        (78, 80, 82, True),
        (0, None, 0, False),  # a host without a GPU
        (0, None, None, False),
    ],
)
def test_less_on_the_gpu_than_it_was_or_should_be_is_a_fall(
    share: int, floor: int | None, usual: int | None, drifts: bool
) -> None:
    spec = Spec("a", "mid-a", min_gpu_percent=floor)
    wanted = replace(ACTIVE, spec=spec, gpu_percent=usual)
    here = row(size_vram=share * 5 * GB // 100)
    assert kinds(seen(here), desired=Desired("north-1", wanted)) == (["on-cpu"] if drifts else [])


# --- names -------------------------------------------------------------------------------------


def other_content(tag: str = "mid-a") -> tuple[Installed, ...]:
    return tuple(
        replace(i, digest="sha-new") if i.name == ModelName.parse(tag) else i for i in DISK
    )


def without(tag: str = "mid-a") -> tuple[Installed, ...]:
    return tuple(i for i in DISK if i.name != ModelName.parse(tag))


@pytest.mark.fact(23)
@pytest.mark.parametrize("loaded", [(row(),), (), (row(digest="sha-new"),)])
def test_a_name_that_means_other_content_is_not_called_evicted(loaded: Any) -> None:
    readings = [seen(row()), seen(*loaded, at=after(3), installed=other_content())]
    found = [f for f in after_all(readings)[1] if f.kind is not Kind.FOREIGN]
    assert [f.kind for f in found] == [Kind.OTHER_CONTENT]
    assert found[0].evidence["now"]["name_means"] == "sha-new"


def test_an_active_model_that_was_deleted_from_the_disk_is_told() -> None:
    found = one(seen(row(), installed=without()))
    assert found.kind is Kind.OTHER_CONTENT
    assert found.text == "mid-a is active, but is no longer on the host."


GHOSTS = {
    "its name means other content": (
        row("other"),
        other_content("other"),
        "points to other content",
    ),
    "it was deleted": (row("other"), without("other"), "was deleted while it was loaded"),
    "overdue": (row("other", expires_at=after(-31)), DISK, "was due to unload at 09:59:29"),
}


@pytest.mark.fact(24)
@pytest.mark.parametrize("case", GHOSTS.values(), ids=GHOSTS)
@pytest.mark.parametrize("desired", [WISH, Desired("north-1")])
def test_ghosts(case: Any, desired: Desired) -> None:
    ghost, disk, words = case
    found = [
        f
        for f in after_all([seen(row(), ghost, installed=disk)], desired)[1]
        if f.kind is Kind.GHOST
    ]
    assert [(f.model, f.digest) for f in found] == [("other", "sha-other")]
    assert words in found[0].text
    assert found[0].text.endswith("holds 5.0 GB.")


def test_thirty_seconds_late_is_not_overdue_yet() -> None:
    assert kinds(seen(row(), row("other", expires_at=after(-29)))) == ["foreign"]


def test_a_foreign_model_is_named_with_what_it_takes() -> None:
    found = one(seen(row(), row("other")))
    assert found.kind is Kind.FOREIGN
    assert found.text == "other is loaded although nobody asked for it here, and takes 5.0 GB."


def test_a_copy_that_we_made_goes_by_the_name_of_its_model() -> None:
    handle = Installed(ModelName.parse("switchboard/mid-b:1"), "sha-mid-b", 5 * GB)
    desired = replace(WISH, model_copies={handle.name: ModelName.parse("mid-b")})
    loaded = row("mid-b", name=handle.name)
    found = one(seen(row(), loaded, installed=(*DISK, handle)), desired=desired)
    assert (found.kind, found.model) == (Kind.FOREIGN, "mid-b")
    found = one(seen(row(), loaded, installed=(*other_content("mid-b"), handle)), desired=desired)
    assert (found.kind, found.model) == (Kind.GHOST, "mid-b")


# --- pinned ---------------------------------------------------------------------------------

BOTH = replace(WISH, pinned=(PINNED,))


def test_a_pinned_model_is_wanted_by_what_its_name_means() -> None:
    assert kinds(seen(row(), row("embed")), desired=BOTH) == []
    found = one(seen(row(), row("embed")), seen(row(), at=after(3)), desired=BOTH)
    assert (found.kind, found.model, found.digest) == (Kind.EVICTED, "embed", "sha-embed")
    assert found.evidence["wanted"]["role"] == "pinned"


def test_a_pinned_model_that_was_never_loaded_is_missing() -> None:
    found = one(seen(row()), desired=BOTH)
    assert found.kind is Kind.MISSING
    assert found.text == "embed is pinned, but not loaded."


def test_pinned_models_that_are_not_on_the_disk_are_told_apart() -> None:
    two = (PINNED, DesiredModel("", Spec("x", "nowhere")), DesiredModel("", Spec("y", "no-place")))
    _, found = after_all([seen(row(), row("embed"))], replace(WISH, pinned=two))
    assert {f.key for f in found} == {
        ("other-content", "nowhere:latest"),
        ("other-content", "no-place:latest"),
    }


def test_one_that_is_active_and_pinned_is_wanted_once() -> None:
    twice = replace(WISH, pinned=(DesiredModel("", Spec("a", "mid-a")),))
    assert kinds(seen(row()), seen(at=after(3)), desired=twice) == ["evicted"]


def test_a_pinned_model_is_compared_with_how_the_last_switch_left_it() -> None:
    left = {"sha-embed": row("embed", context_length=2048)}
    desired = replace(BOTH, verified=left)
    assert kinds(seen(row(), row("embed", context_length=2048)), desired=desired) == []
    assert kinds(seen(row(), row("embed")), desired=desired) == ["reloaded"]


# --- not reachable -----------------------------------------------------------------------------


def test_unreachable_after_three_failures_and_nothing_else_is_judged() -> None:
    good = seen(row())
    assert kinds(good, silent(after(3)), silent(after(4))) == []
    found = one(good, silent(after(3)), silent(after(4)), silent(after(5)))
    assert found.kind is Kind.UNREACHABLE
    assert "last answered at 10:00:00" in found.text
    assert found.evidence["now"]["failures"] == 3
    assert kinds_shown(silent(after(5))) == {Kind.UNREACHABLE}
    assert kinds_shown(good, {}) == frozenset(Kind)
    assert kinds_shown(good, None) == frozenset(Kind) - {Kind.SAME_SERVER}


def test_a_host_that_never_answered_says_so() -> None:
    assert "It never answered." in one(*(silent(after(s)) for s in range(3))).text


# --- flaps and ends ----------------------------------------------------------------------------


def test_a_flap_lasts_as_long_as_what_comes_back() -> None:
    gone, _ = after_all([seen(row()), seen(at=after(3))])
    flapping = replace(gone, open=gone.open | {("flapping", "")})
    assert {f.kind for f in find_drift(WISH, flapping, seen(at=after(5)))} == {
        Kind.EVICTED,
        Kind.FLAPPING,
    }
    assert find_drift(WISH, flapping, seen(row(at=after(5)), at=after(6))) == ()


ENDS = {
    "evicted": (Kind.EVICTED, "sha-mid-a", seen(row()), "The model is loaded again."),
    "replaced": (Kind.EVICTED, "sha-old", seen(row()), "The model is no longer desired here."),
    "reloaded": (Kind.RELOADED, "sha-mid-a", seen(row()), "The model is as desired again."),
    "reloaded, gone": (Kind.RELOADED, "sha-mid-a", seen(), "The model is no longer loaded."),
    "foreign": (Kind.FOREIGN, "sha-other", seen(row()), "The model is no longer loaded."),
    "foreign, wanted": (Kind.FOREIGN, "sha-mid-a", seen(row()), "The model is now desired here."),
    "other content": (
        Kind.OTHER_CONTENT,
        "sha-mid-a",
        seen(row()),
        "The name points to the right content again.",
    ),
    "unreachable": (Kind.UNREACHABLE, "", seen(), "The host answers again."),
    "flapping": (Kind.FLAPPING, "", seen(row()), "The recurring drift has ended."),
}


@pytest.mark.parametrize("case", ENDS.values(), ids=ENDS)
def test_why_a_drift_is_over(case: Any) -> None:
    kind, digest, now, text = case
    assert ending_text(WISH, now, kind, digest) == text


def test_history_keeps_what_was_seen_for_an_hour() -> None:
    history = ReadingHistory().after(seen(row()))
    assert history.after(seen(at=after(3599))).last == {"sha-mid-a": LastSeen(row(), T0)}
    assert history.after(seen(at=after(3601))).last == {}
    assert history.after(silent(after(3))).failures == 1
    assert history.after(silent(after(3))).after(seen(at=after(5))).failures == 0


def test_every_kind_has_its_word_and_what_is_only_reported_is_never_repaired() -> None:
    assert WORDS.keys() == set(Kind)
    assert not REPAIRED & {Kind.OTHER_CONTENT, Kind.FOREIGN, Kind.UNREACHABLE, Kind.GHOST}


@pytest.mark.fact(12)
def test_a_pinned_model_with_more_context_than_the_server_gives_is_as_desired() -> None:
    """A profile may ask for 200,000 tokens of a model that was trained for 131,072."""
    spec = Spec("pin", "pin", options={"num_ctx": 200_000})
    desired = Desired("north-1", pinned=(DesiredModel("", spec),))
    row = make.installed("pin", most_context=131_072)
    loaded = make.resident("pin", context_length=131_072)
    assert find_drift(desired, ReadingHistory(), make.seen(loaded, on_disk=(row,))) == ()
    (found,) = find_drift(
        desired, ReadingHistory(), make.seen(replace(loaded, context_length=4096), on_disk=(row,))
    )
    assert found.kind is Kind.RELOADED
