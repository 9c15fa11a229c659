from __future__ import annotations

import pytest

from switcher.domain.wording import came_from, keep_alive_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("30m", "30\u00a0min"),
        ("2h", "2\u00a0h"),
        ("90m", "90\u00a0min"),
        ("forever", "forever"),
        ("0", "unloads after each use"),
        ("1h30s", "1h30s"),
    ],
)
def test_keep_alive_is_told_in_words(text: str, words: str) -> None:
    assert keep_alive_words(text) == words


def test_from_where_names_the_way_and_the_address() -> None:
    assert came_from("page", "192.0.2.14") == "web, 192.0.2.14"
    assert came_from("command", None) == "command line"
