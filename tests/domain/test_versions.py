from __future__ import annotations

import pytest

from switcher.domain.versions import missing_in, numbers_of


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0.12.6", (0, 12, 6)),
        ("0.25.0-rc0", (0, 25, 0)),
        ("v0.5", (0, 5, 0)),
        ("0.0.0", ()),
        ("0.0.0-simulated", ()),
        ("", ()),
        ("latest", ()),
    ],
)
def test_versions_are_read_by_their_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert numbers_of(text) == numbers


def test_an_unknown_version_lacks_nothing() -> None:
    assert missing_in("0.0.0") == missing_in("") == missing_in("0.32.1") == ()
    assert len(missing_in("0.5.0")) > len(missing_in("0.24.0")) > 0
