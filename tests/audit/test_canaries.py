"""No prompt, no answer, no password and no key is in the trail, its pages, exports or the log.

Each is planted through the door by which it really comes in, and then looked for in all that
leaves.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

from tests.journeys.product import PASSWORDS, Process, Simulator, seed, sign_in, wait_until
from tests.server.process import python

PROMPT = "canary-prompt-6f1d"
WARM_UP = "canary-warm-up-90ab"
PASSWORD = "canary-password-51c7"
NEW_PASSWORD = "canary-Password-of-eve-77e0"
BEARER = "canary-bearer-3aa4"
COOKIE = "canary-cookie-e2b9"
TABLES = ("switcher_ledgerrow", "switcher_auditentry", "switcher_review", "switcher_origin",
          "switcher_checkpoint", "switcher_delivery")  # fmt: skip


@dataclass
class Planted:
    """What was planted, and where it may not turn up."""

    server: Process
    session: requests.Session
    data: Path
    words: list[str] = field(default_factory=list)

    def get(self, path: str) -> str:
        answer = self.session.get(f"{self.server.address}{path}", timeout=30)
        answer.raise_for_status()
        return answer.text

    def post(self, path: str, **form: str) -> requests.Response:
        form["csrfmiddlewaretoken"] = self.session.cookies["csrftoken"]
        return self.session.post(f"{self.server.address}{path}", data=form, timeout=30)


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[Planted]:
    data = tmp_path / "data"
    with Simulator() as first, Simulator() as second:
        seed(data, first.url, second.url)
        with Process(data) as server:
            found = Planted(server, sign_in(server.address), data)
            plant(found)
            yield found


def plant(to: Planted) -> None:
    """Through every door: sign-in, headers, a profile, a switch, a chat, the Django admin."""
    address, session = to.server.address, to.session
    requests.post(f"{address}/login/", data={"username": "eve", "password": PASSWORD}, timeout=10)
    with requests.Session() as other:
        other.get(f"{address}/login/", timeout=10)
        form = {"username": "admin", "password": PASSWORD}
        other.post(
            f"{address}/login/",
            data=form | {"csrfmiddlewaretoken": other.cookies["csrftoken"]},
            timeout=10,
        )
    session.headers["Authorization"] = f"Bearer {BEARER}"
    session.cookies["planted"] = COOKIE
    profile = {"name": "canary", "tag": "mid-a", "keep_alive": "30m", "options": "{}"}
    to.post("/profiles/add", **profile, warmup_prompt=WARM_UP, warmup_tokens="8")
    wish = {"profile": "canary", "host": "north-1", "reason": "for the canary test"}
    switched = session.post(f"{address}/ollama/models/switch", json=wish, timeout=60)
    assert switched.status_code == 200, switched.text
    chat = {"model": "any", "messages": [{"role": "user", "content": PROMPT}]}
    answer = session.post(f"{address}/v1/chat/completions", json=chat, timeout=60)
    assert answer.status_code == 200, answer.text
    said = answer.json()["choices"][0]["message"]["content"]
    person = {"username": "eve", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    to.get("/admin/auth/user/add/")
    to.post("/admin/auth/user/add/", **person, usable_password="true")
    assert "eve" in to.get("/admin/auth/user/")
    to.words += [PROMPT, WARM_UP, PASSWORD, NEW_PASSWORD, BEARER, COOKIE, said[:40]]
    to.words += [session.cookies["session_id"], PASSWORDS["admin"]]


def told_by(planted: Planted) -> Iterator[tuple[str, str]]:
    """All that leaves, with its name."""
    address, session = planted.server.address, planted.session
    for query in ("format=jsonl", "format=csv", "format=jsonl&host=north-1"):
        answer = session.get(f"{address}/audit/export?{query}", timeout=30)
        assert answer.status_code == 200
        yield f"export {query}", answer.text
    pages = ["/audit/", "/audit/people/admin/", "/audit/hosts/north-1/", "/audit/when/"]
    with closing(sqlite3.connect(planted.data / "switchboard.sqlite3")) as database:
        (newest,) = database.execute("SELECT max(seq) FROM switcher_ledgerrow").fetchone()
        for table in TABLES:
            rows = database.execute(f"SELECT * FROM {table}").fetchall()
            yield table, "\n".join(str(row) for row in rows)
    for page in pages + [f"/audit/{seq}/" for seq in range(1, newest + 1)]:
        yield page, planted.get(page)
    out = planted.data.parent / "trail.jsonl"
    done = python("manage.py", "audit", "export", str(out), data=planted.data)
    assert done.returncode == 0, done.stderr
    yield "audit export", done.stdout + done.stderr + out.read_text()
    anchors = planted.data / "anchors.txt"
    wait_until(anchors.exists)
    yield "anchors", anchors.read_text()
    yield "the log", planted.server.output


def test_nothing_secret_is_in_anything_that_leaves(planted: Planted) -> None:
    seen = 0
    for name, text in told_by(planted):
        seen += len(text)
        assert [word for word in planted.words if word in text] == [], name
    assert seen > 50_000
    assert "for the canary test" in planted.get("/audit/")
