from __future__ import annotations

import pytest

from switcher.audit.ledger import Actor, append, writing
from tests.clocks import FakeClock

ANNA = Actor("anna", "page")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def write(clock: FakeClock, count: int = 1) -> None:
    with writing():
        for n in range(count):
            append("test.told", ANNA, clock=clock, n=n)
