from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from switcher.audit.ledger import Actor
from switcher.domain.specs import Spec
from switcher.models import Host
from switcher.records import config
from tests.hung import server
from tests.hung.server import A, Ollama

ANNA = Actor("anna", "page")
DEADLINE_S = 0.3
NEVER_S = 3600.0  # a deadline that no test lives to see


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a load of mid-b DEADLINE_S, and do not wait for a server to come back."""

    def load_timeout_s(spec: Spec, size: int) -> float:
        return DEADLINE_S if spec.tag == "mid-b" else 10.0

    for module in ("steps", "loading", "residency"):
        monkeypatch.setattr(f"switcher.switching.{module}.load_timeout_s", load_timeout_s)
    monkeypatch.setattr("switcher.switching.residency.RETRY_FOR_S", 0.0)


@pytest.fixture
def shorten(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that gives each quick call DEADLINE_S from then on."""
    return lambda: monkeypatch.setattr("switcher.ollama.client.QUICK_TIMEOUT_S", DEADLINE_S)


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    """Yield a server with mid-a loaded and mid-b installed."""
    with server.ollama("mid-a:latest") as made:
        yield made


@pytest.fixture
def host(transactional_db: None, ollama: Ollama) -> Host:
    """Return a host at that server with mid-a active, too small for an overlap."""
    return add_host("north-1", ollama.url)


def add_host(name: str, url: str) -> Host:
    # Many hosts at one server would be refused.
    row = Host(name=name, base_url=f"{url}/{name}", vram_bytes=int(1.5e9))
    config.save_host(row, ANNA)
    spec = Spec("", "mid-a")
    Host.objects.filter(pk=row.pk).update(
        base_url=url, active_tag="mid-a", active_digest=A, active_spec=spec.to_json()
    )
    row.refresh_from_db()
    return row
