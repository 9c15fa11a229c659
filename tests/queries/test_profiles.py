from __future__ import annotations

import pytest

from switcher.domain.errors import NotFound
from switcher.queries.profiles import profile, profile_list
from switcher.records import config
from tests import make
from tests.make import ANNA

pytestmark = pytest.mark.django_db


def test_profiles_show_where_they_are_used() -> None:
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


def test_a_profile_without_a_context_says_which_it_got() -> None:
    host = make.host(seen=make.seen(make.resident("embed", context_length=2048)))
    chosen = make.profile("embed")
    asked = make.profile("embed", name="asked", options={"num_ctx": 2048})
    config.set_pinned(host, [chosen], ANNA)
    found = {p.name: p.contexts for p in profile_list()}
    assert found == {chosen.name: (("north-1", 2048),), asked.name: ()}
