"""Ghosts on the pages, with a simulated server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from switcher.live.source import PanelSource
from switcher.models import Host, ModelCopy, SwitchEvent
from switcher.records import config
from switcher.switching.service import SwitchRequest, request_switch
from switcher.switching.worker import run_once
from switcher.watching.loop import check_now
from tests.make import ANNA
from tests.panel.test_board import text_of
from tests.simulated import SimulatedOllama
from tests.until import until

pytestmark = pytest.mark.django_db(transaction=True)

HTMX = {"HX-Request": "true"}


@pytest.fixture
def simulator() -> Iterator[SimulatedOllama]:
    models = ("mid-a=4GB", "mid-b=4GB", "other=1GB", "embed=1GB,embed")
    with SimulatedOllama(*models, load_rate="50GB") as made:
        yield made


@pytest.fixture
def host(transactional_db: None, simulator: SimulatedOllama) -> Host:
    row = Host(name="north-1", base_url=simulator.url, vram_bytes=24_000_000_000)
    return config.save_host(row, ANNA)


class Ghost:
    """`other` is active; `mid-a`, loaded forever by the switch before, keeps old content."""

    def __init__(self, host: Host, simulator: SimulatedOllama) -> None:
        self.host, self.simulator = host, simulator
        self.switch("mid-a", keep_alive="forever")
        row = simulator.rows()["mid-a"]
        self.digest: str = row["digest"]
        simulator.act("repull", tag="mid-a")
        self.handle = ModelCopy.objects.get().name

    def switch(self, tag: str, **values: Any) -> None:
        row, _ = request_switch(SwitchRequest(model=tag, host="north-1", **values), ANNA)
        run_once(row.pk)
        row = SwitchEvent.objects.get(pk=row.pk)
        assert row.state == "active", row.error

    def read(self) -> None:
        check_now(self.host.pk, self.host.base_url)

    def no_longer_active(self) -> None:
        """Act as after a switch whose old model did not unload in time."""
        Host.objects.filter(pk=self.host.pk).update(active_tag="", active_digest="")
        self.read()


@pytest.fixture
def ghost(host: Host, simulator: SimulatedOllama) -> Ghost:
    made = Ghost(host, simulator)
    made.no_longer_active()
    return made


def test_a_ghost_is_shown_and_freed_without_script(operator: Client, ghost: Ghost) -> None:
    for path in ("/", "/hosts/", "/hosts/north-1/"):
        shown = text_of(operator.get(path))
        assert "replaced mid-a " + ghost.digest[:12] in shown, path
        assert (
            "It can still be unloaded through a model copy. Free it (mid-a on north-1)" in shown
        ), path
    response = operator.post("/hosts/north-1/free", {"digest": ghost.digest}, follow=True)
    shown = text_of(response)
    assert f"mid-a ({ghost.digest[:12]}) left north-1: 5.1 GB are free again." in shown
    assert "Free it" not in shown
    assert ghost.simulator.resident() == set()
    assert ghost.handle not in ghost.simulator.installed()
    assert not ModelCopy.objects.exists()


def test_a_ghost_is_freed_in_place_with_htmx(operator: Client, ghost: Ghost) -> None:
    url, sent = "/hosts/north-1/free", {"digest": ghost.digest}
    response = operator.post(url, sent, headers=HTMX)
    assert "5.1 GB are free again." in text_of(response)
    assert "<html" not in response.content.decode()
    assert "host-north-1-freed" in response["HX-Trigger-After-Swap"]
    again = operator.post(url, sent, headers=HTMX)
    assert "No model with the digest" in text_of(again)


def test_a_deleted_model_is_a_ghost_too(operator: Client, ghost: Ghost) -> None:
    ghost.simulator.delete("mid-a")
    ghost.read()
    assert "deleted mid-a" in text_of(operator.get("/hosts/north-1/"))
    operator.post("/hosts/north-1/free", {"digest": ghost.digest})
    assert ghost.simulator.resident() == set()


def test_without_a_model_copy_the_page_says_what_can_be_done(
    operator: Client, ghost: Ghost
) -> None:
    ghost.simulator.delete(ghost.handle)
    ghost.read()
    for path in ("/", "/hosts/north-1/"):
        shown = text_of(operator.get(path))
        assert "No name on north-1 reaches mid-a any more: it stays loaded until Ollama" in shown
        assert "Free it" not in shown
    response = operator.post("/hosts/north-1/free", {"digest": ghost.digest}, follow=True)
    assert "No name on north-1 reaches mid-a any more" in text_of(response)
    assert ghost.simulator.resident() == {"mid-a"}


def test_an_auditor_cannot_free_a_ghost(auditor: Client, ghost: Ghost) -> None:
    shown = text_of(auditor.get("/hosts/north-1/"))
    assert "An operator can free it." in shown
    assert "Free it" not in shown
    response = auditor.post("/hosts/north-1/free", {"digest": ghost.digest})
    assert response.status_code == 403
    assert ghost.simulator.resident() == {"mid-a"}


def test_a_pushed_ghost_has_no_button_and_fetches_itself_again(
    operator: Client, ghost: Ghost
) -> None:
    parts = PanelSource().render(frozenset({"board", "host-north-1"})).fragments
    for part in (parts["board"]["north-1-ghosts"], parts["host-north-1"]["ghosts"]):
        assert "<button" not in part.html
        assert 'hx-get="/hosts/north-1/ghosts"' in part.html
        mark = operator.get("/").content.decode().split('data-ghosts="')[1].split('"')[0]
        assert f"data-ghosts=&quot;{mark}&quot;" in part.html, "a page that shows it is not changed"
    page = operator.get("/hosts/north-1/ghosts", headers=HTMX)
    assert "<button" in page.content.decode()
    assert "hx-get" not in page.content.decode()
    assert operator.get("/hosts/north-1/ghosts")["Location"] == "/hosts/north-1/"


def test_an_unknown_host_is_a_friendly_404(operator: Client) -> None:
    assert operator.post("/hosts/nowhere/free", {"digest": "a" * 64}).status_code == 404
    assert operator.get("/hosts/nowhere/ghosts", headers=HTMX).status_code == 404


def test_model_copies_are_not_offered_for_a_switch(
    operator: Client, host: Host, ghost: Ghost
) -> None:
    for path in ("/", "/hosts/", "/hosts/north-1/", "/hosts/north-1/edit"):
        assert "switchboard-holds" not in operator.get(path).content.decode(), path
    shown = text_of(operator.get("/plan", {"host": "north-1", "profile": f"={ghost.handle}"}))
    assert "is a copy that Switchboard keeps" in shown


def test_a_model_listed_by_its_copy_is_shown_by_its_own_name(
    operator: Client, host: Host, simulator: SimulatedOllama
) -> None:
    """Fact 21: `/api/ps` shows the name by which it was loaded first."""
    ghost = Ghost(host, simulator)
    ghost.switch("mid-a")  # to its new content: the old one has left
    handle = ModelCopy.objects.get().name
    simulator.load("mid-a", keep_alive=0)
    until(lambda: not simulator.resident())
    simulator.load(handle)
    ghost.read()
    assert simulator.resident() == {handle}
    for path in ("/", "/hosts/north-1/"):
        page = operator.get(path)
        assert "mid-a is loaded" in text_of(page) or "Active mid-a" in text_of(page)
        assert "switchboard-holds" not in page.content.decode()
