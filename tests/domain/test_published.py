"""What is to be done with a published name, by what is recorded of it and what lies on the disk."""

from __future__ import annotations

import pytest

from switcher.domain.model_names import NO_NAME, ModelName
from switcher.domain.observed import Installed
from switcher.domain.published_name import (
    PublishedName,
    PublishedNamePlan,
    is_taken,
    plan_published_name,
    taken_text,
)

GB = 1_000_000_000
TAKEN = (
    "north-1 has a model active that is not Switchboard's. "
    "Choose another published name, or remove that model."
)


def disk(**means: str) -> tuple[Installed, ...]:
    """What lies there: name to the model whose content it has."""
    return tuple(Installed(ModelName.parse(name), f"sha-{tag}", GB) for name, tag in means.items())


MODELS = disk(a="a", b="b")


def name(
    wanted: str = "active", ours: str = "", means: str = "", active: str = "b"
) -> PublishedName:
    """`ours` is recorded, and was seen to mean `means`."""
    return PublishedName(
        host="north-1",
        wanted=ModelName.parse(wanted),
        name=ModelName.parse(ours),
        tag=ModelName.parse((means or "b") if ours else ""),
        digest=f"sha-{means}" if means else "",
        active_tag=ModelName.parse(active),
        active_digest=f"sha-{active}" if active else "",
    )


B = ModelName.parse("b")
MOVED = PublishedNamePlan(source=B)
OLD = ModelName.parse("old")
CASES: dict[str, tuple[PublishedName, tuple[Installed, ...], PublishedNamePlan]] = {
    "nothing is wanted and nothing is ours": (name(""), disk(active="x"), PublishedNamePlan()),
    "nothing is active yet": (name(active=""), (), PublishedNamePlan()),
    "it is to be made": (name(), (), MOVED),
    "somebody else's lies there": (name(), disk(active="x"), PublishedNamePlan(barred=TAKEN)),
    "somebody else's is the same content": (
        name(),
        disk(active="b"),
        PublishedNamePlan(barred=TAKEN),
    ),
    "it means what it should": (
        name(ours="active", means="b"),
        disk(active="b"),
        PublishedNamePlan(),
    ),
    "it is to be moved": (name(ours="active", means="a"), disk(active="a"), MOVED),
    "somebody removed it": (name(ours="active", means="b"), (), MOVED),
    "somebody copied another there": (name(ours="active", means="b"), disk(active="a"), MOVED),
    "somebody made another there": (
        name(ours="active", means="b"),
        disk(active="x"),
        PublishedNamePlan(barred=TAKEN),
    ),
    "the copy we hold is no other name": (
        name(ours="active", means="b"),
        disk(active="x", **{"switchboard-holds/x:1": "x"}),
        PublishedNamePlan(barred=TAKEN),
    ),
    "cut off before it was pointed": (name(ours="active"), disk(active="a"), MOVED),
    "cut off after it was pointed": (name(ours="active"), disk(active="b"), PublishedNamePlan()),
    "another name is wanted": (
        name(ours="old", means="a"),
        disk(old="a"),
        PublishedNamePlan(OLD, True, B),
    ),
    "another is wanted, and taken": (
        name(ours="old", means="a"),
        disk(old="a", active="x"),
        PublishedNamePlan(OLD, True, barred=TAKEN),
    ),
    "the old name is somebody else's by now": (
        name(ours="old", means="a"),
        disk(old="x"),
        PublishedNamePlan(OLD, False, B),
    ),
    "somebody copied another to the old name": (
        name(ours="old", means="a"),
        disk(old="b"),
        PublishedNamePlan(OLD, False, B),
    ),
    "the old name was cut off": (name("", "old"), disk(old="a"), PublishedNamePlan(OLD, True)),
    "the old name was cut off, and is another's": (
        name("", "old"),
        disk(old="x"),
        PublishedNamePlan(OLD, False),
    ),
    "the old name is gone": (name("", "old", "a"), (), PublishedNamePlan(OLD, False)),
    "nothing is active any more": (
        name("active", "active", "a", active=""),
        disk(active="a"),
        PublishedNamePlan(ModelName.parse("active"), True),
    ),
}


@pytest.mark.parametrize(("now", "there", "todo"), CASES.values(), ids=CASES.keys())
def test_what_is_to_be_done(
    now: PublishedName, there: tuple[Installed, ...], todo: PublishedNamePlan
) -> None:
    assert plan_published_name(now, (*MODELS, *there)) == todo


def test_where_no_name_means_the_model_any_more_it_says_so() -> None:
    todo = plan_published_name(name(), disk(b="pulled-again"))
    assert todo == PublishedNamePlan(
        barred="No name on north-1 points to the content of b that was loaded."
    )


def test_what_is_about_to_be_deleted_is_no_source() -> None:
    todo = plan_published_name(name(ours="old", means="b"), disk(old="b", b="pulled-again"))
    assert (todo.withdraw, todo.delete, todo.source) == (OLD, True, NO_NAME)
    assert "No name on north-1 points to the content of b" in todo.barred


def test_upper_and_lower_case_are_the_same_to_the_server() -> None:
    assert is_taken(name(), disk(ACTIVE="x"))
    assert taken_text(name()) == TAKEN


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (name(), True),
        (name(active=""), False),
        (name(""), False),
        (name("", "active", "b"), True),
        (name(ours="active", means="b"), False),
        (name(ours="active", means="a"), True),
        (name(ours="old", means="b"), True),
        (name(ours="active"), True),
    ],
)
def test_what_is_set_is_due_until_it_was_seen_carried_out(now: PublishedName, due: bool) -> None:
    assert now.due is due
