from __future__ import annotations

import pytest

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
