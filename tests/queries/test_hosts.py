from __future__ import annotations

import pytest

from switcher.domain.errors import NotFound
from switcher.domain.wording import came_from, keep_alive_words
from switcher.presentation.hosts import host_list, host_page
from switcher.queries.hosts import host
from switcher.queries.profiles import profile, profile_list
from switcher.records import config
from tests import make
from tests.make import ANNA, NOW

pytestmark = pytest.mark.django_db


def test_host_page_tells_of_residents_profiles_and_events() -> None:
    disk = (make.installed("phi4:14b"),)
    host = make.host(seen=make.seen(make.resident("llama3.1:8b"), on_disk=disk))
    for tag in ("llama3.1:8b", "phi4:14b", "gemma2:9b"):
        make.profile(tag)
    make.ended_switch(host, "llama3.1:8b")
    page = host_page("north-1", NOW)
    assert [(r.name, r.kind) for r in page.residents] == [("llama3.1:8b", "active")]
    found = {p.model: (p.word, p.load_s) for p in page.profiles}
    assert found == {
        "llama3.1:8b": ("Active", 1.0),
        "phi4:14b": ("Not loaded", None),
        "gemma2:9b": ("Not on this host", None),
    }
    assert [e.to_model for e in page.events] == ["llama3.1:8b"]


def test_removed_host_has_no_page_and_no_row() -> None:
    config.remove_host(make.host().pk, ANNA)
    for read in (lambda: host_page("north-1", NOW), lambda: host("north-1")):
        with pytest.raises(NotFound):
            read()
    assert host_list(NOW) == ()


def test_profiles_tell_where_they_are_used() -> None:
    host = make.host()
    make.profile("llama3.1:8b")
    embed, _ = make.profile("embed"), make.profile("phi4:14b")
    make.ended_switch(host, "llama3.1:8b")
    config.set_pinned(host, [embed], ANNA)
    make.open_switch(host, "phi4:14b")
    found = {p.model: p for p in profile_list()}
    assert found["llama3.1:8b"].active_on == ("north-1",)
    assert found["embed"].pinned_on == ("north-1",)
    assert found["phi4:14b"].switching_on == ("north-1",)
    with pytest.raises(NotFound):
        profile("nothing")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("30m", "30\u00a0min"),
        ("2h", "2\u00a0h"),
        ("90m", "90\u00a0min"),
        ("forever", "for ever"),
        ("0", "unloads after each use"),
        ("1h30s", "1h30s"),
    ],
)
def test_keep_alive_is_told_in_words(text: str, words: str) -> None:
    assert keep_alive_words(text) == words


def test_from_where_names_the_way_and_the_address() -> None:
    assert came_from("page", "192.0.2.14") == "web, 192.0.2.14"
    assert came_from("command", None) == "command line"
