"""Every kind of entry that the code writes has a description and belongs to a group."""

from __future__ import annotations

import re

import pytest

from switcher.audit.entry_descriptions import describe, status_style
from switcher.audit.filters import GROUPS, group_of
from tests.server.process import ROOT

# By "user.added" or by f"{what}.changed" in what is given to `append`.
AREAS = {start.partition(".")[0] for starts in GROUPS.values() for start in starts}
WRITTEN = re.compile(rf'"((?:{"|".join(sorted(AREAS))})\.[a-z-]+)"')


def kinds() -> set[str]:
    packages = [ROOT / "switcher" / name for name in ("records", "audit", "switching")]
    code = "".join(
        path.read_text() for package in packages for path in sorted(package.rglob("*.py"))
    )
    return set(WRITTEN.findall(code)) | {"user.changed"}


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_every_kind_has_a_description_and_a_group(kind: str) -> None:
    by_name = kind.replace(".", ": ").replace("-", " ").capitalize()
    told = describe(kind, "north-1", {})
    assert told
    assert not told.startswith(by_name)
    assert group_of(kind)


@pytest.mark.parametrize(
    ("kind", "facts", "told"),
    [
        ("login.succeeded", {}, "Signed in."),
        (
            "login.failed",
            {"why": "no such account"},
            "Failed to sign in: there is no account of this name.",
        ),
        (
            "login.locked-out",
            {"locked": "address", "until": "2026-11-24T14:47:07.000000Z"},
            "Too many sign-ins failed: signing in from this address is locked until 14:47 UTC.",
        ),
        (
            "user.added",
            {"user": "olga", "before": {}, "after": {"is_staff": True}},
            "Added user olga.",
        ),
        (
            "user.changed",
            {"user": "olga", "before": {"groups": ["a"]}, "after": {"groups": ["b"]}},
            "Changed user olga: groups + b; groups − a.",
        ),
        (
            "user.password-changed",
            {"user": "olga", "usable": True},
            "Changed the password of olga.",
        ),
        (
            "host.version",
            {"before": "0.12.6", "after": "0.13.0"},
            "north-1 went from Ollama 0.12.6 to 0.13.0.",
        ),
        (
            "server.lost",
            {"role": "gateway", "version": "0.1.0"},
            "A gateway process, version 0.1.0, ended without stopping: it was killed or cut off.",
        ),
        (
            "server.clock-set",
            {"seconds": -3600},
            "The server's clock was set back by 3600 s. Times overlap here.",
        ),
        (
            "key.refused",
            {"name": "ci", "why": "it is off", "more": 19},
            "The key ci was refused at the gateway: it is off. 19 more since the last such entry.",
        ),
        (
            "host.default",
            {"before": "south-1", "after": "north-1"},
            "north-1 became the default host, instead of south-1.",
        ),
    ],
)
def test_descriptions(kind: str, facts: dict[str, object], told: str) -> None:
    assert describe(kind, "north-1" if kind.startswith("host.") else "", facts) == told


@pytest.mark.parametrize("kind", ["login.failed", "login.locked-out", "key.refused", "server.lost"])
def test_what_deserves_a_look_stands_out(kind: str) -> None:
    assert status_style(kind, "") == "warning"
