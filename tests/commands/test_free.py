"""`free`; `status` shows no model copies."""

from __future__ import annotations

import pytest

from switcher.models import Host, Lease, ModelCopy
from tests.commands.conftest import run
from tests.simulated import SimulatedOllama
from tests.until import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def ghost(host: Host, simulator: SimulatedOllama) -> str:
    """Return the digest of mid-a, which was deleted while it was loaded and is no longer active."""
    assert run("switch", "mid-a").code == 0
    simulator.delete("mid-a")
    Host.objects.update(active_tag="", active_digest="")
    return ModelCopy.objects.get().digest


def test_a_ghost_is_freed_by_the_id_that_status_shows(
    ghost: str, simulator: SimulatedOllama
) -> None:
    assert ghost[:12] in run("status").out
    ran = run("free", ghost[:12])
    assert (ran.code, ran.out) == (0, f"mid-a ({ghost[:12]}) left tower: 2.7 GB are free again.\n")
    assert simulator.resident() == set()
    again = run("free", ghost, "--host", "tower", "--json")
    assert (again.code, again.json()["error_code"]) == (1, "not-found")


def test_a_command_releases_the_host_before_it_exits(host: Host) -> None:
    for tag in ("mid-a", "mid-b", "mid-a"):
        assert run("switch", tag).code == 0
        assert Lease.objects.get(host=host).owner == ""
    assert [h.tag for h in ModelCopy.objects.all()] == ["mid-a:latest"]


def test_freed_as_json(ghost: str) -> None:
    output = run("free", ghost, "--json").json()
    assert output == {
        "success": True,
        "host": "tower",
        "model": "mid-a",
        "digest": ghost,
        "bytes": 2_719_114_312,
    }


def test_status_shows_a_model_that_was_used_by_its_copy_under_its_own_name(
    host: Host, simulator: SimulatedOllama
) -> None:
    """Fact 21."""
    assert run("switch", "mid-a").code == 0
    handle = ModelCopy.objects.get().name
    simulator.load("mid-a", keep_alive=0)
    until(lambda: not simulator.resident())
    simulator.load(handle)
    assert simulator.resident() == {handle}
    shown = run("status").out
    assert "mid-a " in shown
    assert "switchboard-holds" not in shown
    assert "switchboard-holds" not in run("status", "--json").out
