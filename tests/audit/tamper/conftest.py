from __future__ import annotations

import pytest

from switcher.audit.signing_keys import KeyFiles
from tests.audit.tamper.attacker import Attacker, sign_and_anchor, write
from tests.clocks import FakeClock


@pytest.fixture
def trail(db: None, proofs: KeyFiles, clock: FakeClock) -> KeyFiles:
    """Twelve entries; checkpoints over five (one of them made the key) and nine have left."""
    write(4, clock)
    sign_and_anchor(clock)
    write(4, clock)
    sign_and_anchor(clock)
    write(3, clock)
    return proofs


@pytest.fixture
def attacker(trail: KeyFiles, clock: FakeClock) -> Attacker:
    return Attacker(trail, clock)
