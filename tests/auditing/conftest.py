from __future__ import annotations

import pytest
from django.db import transaction

from switcher.records.ledger import Actor, append
from tests.clocks import FakeClock

ANNA = Actor("anna", "page")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def write(clock: FakeClock, count: int = 1) -> None:
    with transaction.atomic():
        for n in range(count):
            append("test.told", ANNA, clock=clock, n=n)
