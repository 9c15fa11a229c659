from __future__ import annotations

from datetime import timedelta

import pytest

from switcher.domain import last_answers
from switcher.domain.errors import NotFound
from switcher.presentation.hosts import host_list, host_page
from switcher.queries.hosts import host
from switcher.records import config
from tests import make
from tests.make import ANNA, NOW

pytestmark = pytest.mark.django_db


def test_host_page_shows_residents_profiles_and_switches() -> None:
    disk = (make.installed("phi4:14b"),)
    host = make.host(seen=make.seen(make.resident("llama3.1:8b"), on_disk=disk))
    for tag in ("llama3.1:8b", "phi4:14b", "gemma2:9b"):
        make.profile(tag)
    make.ended_switch(host, "llama3.1:8b")
    page = host_page("north-1", NOW)
    assert [(r.name.short, r.kind) for r in page.residents] == [("llama3.1:8b", "active")]
    found = {p.model: (p.word, p.load_s) for p in page.profiles}
    assert found == {
        "llama3.1:8b": ("Active", 1.0),
        "phi4:14b": ("Not loaded", None),
        "gemma2:9b": ("Not on this host", None),
    }
    assert [e.to_model for e in page.recent_switches] == ["llama3.1:8b"]


def test_removed_host_has_no_page_and_no_row() -> None:
    config.remove_host(make.host().pk, ANNA)
    for read in (lambda: host_page("north-1", NOW), lambda: host("north-1")):
        with pytest.raises(NotFound):
            read()
    assert host_list(NOW) == ()


@pytest.mark.fact(28)
def test_an_active_cloud_model_is_active_although_nothing_of_it_is_loaded() -> None:
    disk = (make.installed("big:1t-cloud"), make.installed("phi4:14b"))
    host = make.host(allows_cloud=True, seen=make.seen(make.resident("phi4:14b"), on_disk=disk))
    make.ended_switch(host, "big:1t-cloud")
    page = host_page("north-1", NOW)
    assert (page.model, page.word) == ("big:1t-cloud", "Active")
    assert page.facts[0] == "in the cloud"


@pytest.mark.fact(28)
def test_models_are_listed_as_what_they_are() -> None:
    disk = (
        make.installed("big:1t-cloud"),
        make.installed("embed", capabilities=("embedding",)),
        make.installed("flux", capabilities=("image",)),
        make.installed("whisper", capabilities=("audio",)),
        make.installed("qwen-mlx", on_mlx=True),
        make.installed("phi4:14b"),
    )
    make.host(seen=make.seen(on_disk=disk))
    page = host_page("north-1", NOW)
    assert [i.name.short for i in page.ordinary_models] == ["phi4:14b"]
    kinds = {words.split()[0]: [i.name.short for i in rows] for words, rows in page.other_models}
    assert kinds == {
        "Cloud": ["big:1t-cloud"],
        "Embedding": ["embed"],
        "Image": ["flux"],
        "Audio": ["whisper"],
        "MLX": ["qwen-mlx"],
    }
    assert set(page.on_disk) == {"phi4:14b", "qwen-mlx"}, "those that a switch may take"


@pytest.mark.fact(19)
def test_a_listed_model_is_shown_with_its_last_answer() -> None:
    """Its runner may have been killed since."""
    host = make.host(seen=make.seen(make.resident("llama3.1:8b"), make.resident("other")))
    make.ended_switch(host, "llama3.1:8b")
    active, other = host_page("north-1", NOW).residents
    host.refresh_from_db()
    assert (active.answered_at, other.answered_at) == (host.active_since, None)
    later = NOW + timedelta(minutes=1)
    last_answers.note(host.pk, make.digest("llama3.1:8b"), later)
    try:
        assert host_page("north-1", NOW).residents[0].answered_at == later
    finally:
        last_answers._answered.clear()
