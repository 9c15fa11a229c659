"""A trail to look at, and people who look at it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django.test import AsyncClient, Client

from switcher.access import AUDITORS
from switcher.audit.filters import Filters
from switcher.audit.ledger import append, writing
from switcher.audit.search import matching
from switcher.audit.signer import Signer, Upkeep
from switcher.audit.signing_keys import KeyFiles
from switcher.audit.verifier.switchboard_verify import PublicKey, Report, verify_files
from switcher.domain.clock import Clock, system
from switcher.models import AuditEntry, Host
from switcher.records import Actor, config
from tests import make
from tests.clocks import FakeClock

ANNA = Actor("anna", "page", ip="192.0.2.14", agent="Firefox")
BEN = Actor("ben", "api")
DORA = Actor("dora", "page")  # from nowhere known


class Entry(NamedTuple):
    """A stored row of the trail."""

    seq: int
    body: str
    prev: bytes
    hash: bytes


def verify_export(
    lines: Iterable[str], keys: list[PublicKey], anchors: Iterable[str] = ()
) -> Report:
    """Verify the lines of one export."""
    return verify_files([lines], keys, anchors)


class Background:
    """The background work of a server on its trail, a step at a time."""

    def __init__(self, clock: Clock = system) -> None:
        self._signer, self._upkeep = Signer(clock), Upkeep(clock)

    def begin(self) -> None:
        """Do what a server does at its start."""
        self._signer.tick()
        self._upkeep.tick()

    def sign(self) -> None:
        self._signer.sign()

    def sign_if_due(self) -> None:
        self._signer.tick()

    def upkeep(self) -> None:
        self._upkeep.tick()


def tell(kind: str = "host.changed", actor: Actor = ANNA, **values: Any) -> AuditEntry:
    """Append one entry, with nothing that it would tell of."""
    with writing():
        return append(kind, actor, **values)


def tell_at(at: datetime, kind: str = "host.changed", actor: Actor = ANNA, **values: Any) -> int:
    """The same at a moment; gives its number."""
    clock = FakeClock(at)
    return tell(kind, actor, clock=clock, **values).seq


def tell_many(count: int, **values: Any) -> list[int]:
    """Entries a second apart."""
    began = make.NOW - timedelta(hours=2)
    return [tell_at(began + timedelta(seconds=n), **values) for n in range(count)]


def write(clock: FakeClock, count: int = 1) -> None:
    """Append entries in one transaction."""
    with writing():
        for n in range(count):
            append("test.told", DORA, clock=clock, n=n)


def find(filters: Filters, limit: int = 50, after: int | None = None) -> list[int]:
    """The newest entries that fit, or with `after` the oldest of those above it."""
    order = "-seq" if after is None else "seq"
    rows = matching(filters, after or 0).order_by(order)
    return list(rows.values_list("seq", flat=True)[:limit])


def numbers(client: Client, path: str) -> list[int]:
    """The entries that a page lists, in its order."""
    response = client.get(path)
    assert response.status_code == 200, response.content[:500]
    return [row.seq for row in response.context["page"].rows]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sign_in(db: None) -> Callable[..., Client]:
    def go(role: str = AUDITORS, name: str = "arno") -> Client:
        client = Client()
        make.sign_in(client, make.user(name, role))
        return client

    return go


@pytest.fixture
def auditor(sign_in: Callable[..., Client]) -> Client:
    return sign_in()


@pytest.fixture
def operator(sign_in: Callable[..., Client]) -> Client:
    return sign_in("operators", "olga")


@pytest.fixture
def admin(sign_in: Callable[..., Client]) -> Client:
    return sign_in("admin", "ada")


@pytest.fixture
def streaming(transactional_db: None, proofs: KeyFiles) -> AsyncClient:
    """An auditor's client for answers that are streamed; its trail can be signed."""
    client = AsyncClient()
    make.sign_in(client, make.user("arno", AUDITORS))
    return client


@pytest.fixture
def host(db: None) -> Host:
    return config.save_host(Host(name="north-1", base_url="http://127.0.0.1:9"), ANNA)
