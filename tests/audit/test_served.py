"""An export from a real server: to a slow client, and to one that leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.server.process import Process, python, seed
from tests.until import PATIENCE_S, until

# 20 MB: more than what lies between a server and a client of this machine.
FILL = """
import django; django.setup()
from switcher.records import Actor
from switcher.audit.ledger import append, writing
with writing():
    for n in range(2000):
        append("host.changed", Actor("anna", "page"), host="north-1", after={"notes": "x" * 10_000})
"""


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    place = tmp_path / "data"
    key = seed(place)
    done = python("-c", FILL, data=place)
    assert done.returncode == 0, done.stderr
    return place, {"session_id": key}


def ends(server: Process, cookies: dict[str, str]) -> str:
    page = requests.get(
        f"{server.address}/audit/?kind=audit.exported", cookies=cookies, timeout=PATIENCE_S
    )
    return page.text


def test_a_client_that_leaves_is_recorded(data: tuple[Path, dict[str, str]]) -> None:
    place, cookies = data
    with Process(place) as server:
        url = f"{server.address}/audit/export?format=jsonl"
        with requests.get(url, cookies=cookies, stream=True, timeout=PATIENCE_S) as answer:
            assert answer.status_code == 200
            assert next(answer.iter_content(1000))
        until(lambda: "was cut off after" in ends(server, cookies))
        assert server.end() == 0
    assert "Traceback" not in server.output


def test_a_slow_client_gets_everything(data: tuple[Path, dict[str, str]]) -> None:
    place, cookies = data
    with Process(place) as server:
        url = f"{server.address}/audit/export?format=jsonl"
        with requests.get(url, cookies=cookies, stream=True, timeout=PATIENCE_S) as answer:
            parts = answer.iter_content(2**16)
            first = next(parts)
            # The pages go on being served while it waits.
            assert (
                "Began to export the whole trail"
                in requests.get(
                    f"{server.address}/audit/", cookies=cookies, timeout=PATIENCE_S
                ).text
            )
            lines = (first + b"".join(parts)).splitlines()
        assert sum(line.startswith(b'{"type":"entry"') for line in lines) > 2000
        until(lambda: "Exported 2," in ends(server, cookies))
        assert server.end() == 0
    assert "Traceback" not in server.output
