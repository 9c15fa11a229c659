from __future__ import annotations

import pytest

from switcher.gateway.renaming import ModelRenamer

SENT, SHOWN = "switchboard-holds/mid-a:0123456789ab", "mid-a"
LINES = b'{"model":"%s","done":false}\n' % SENT.encode() * 2


@pytest.mark.parametrize("size", range(1, len(LINES) + 1))
def test_the_name_is_replaced_wherever_a_stream_is_cut(size: int) -> None:
    renamer = ModelRenamer(SENT, SHOWN)
    cut = [LINES[at : at + size] for at in range(0, len(LINES), size)]
    parts = [renamer.in_part(part, more=True) for part in cut]
    assert b"".join(parts) == b'{"model":"mid-a","done":false}\n' * 2


def test_the_name_in_the_middle_of_a_models_text_stays() -> None:
    text = b'{"response":"Run \\"%s\\", or \'%s\'"}' % (SENT.encode(), SENT.encode())
    assert ModelRenamer(SENT, SHOWN).in_part(text, more=False) == text


def test_what_was_held_back_comes_at_the_end() -> None:
    renamer = ModelRenamer(SENT, SHOWN)
    assert renamer.in_part(b'a "switch', more=True) == b"a "
    assert renamer.in_part(b"", more=False) == b'"switch'
