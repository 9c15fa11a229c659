"""No prompt, no answer, no password and no key is in anything that leaves: the trail, exports,
pages, answers of the API, health, live messages, the log.

Each is planted through the door by which it really comes in, and then looked for in all that
leaves.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import requests

from tests.journeys.product import PASSWORDS, Process, seed, sign_in, simulated_host
from tests.server import process
from tests.server.process import environment, python
from tests.until import PATIENCE_S, until

PROMPT = "canary-prompt-6f1d"
WARM_UP = "canary-warm-up-90ab"
PASSWORD = "canary-password-51c7"
NEW_PASSWORD = "canary-Password-of-eve-77e0"
TYPED = "canary-password-typed-as-name-2c68"
BEARER = "canary-bearer-3aa4"
UNKNOWN_KEY = "sb-canary-key-that-never-was-9d17"
COOKIE = "canary-cookie-e2b9"
ASKED = "heads of what the host was asked"
UPSTREAM = "canary-header-of-the-host-f35e"
# What people set there to be used: a profile's prompts, with what was and is to be loaded by it,
# and sessions by their keys. That none of it is shown, all pages tell.
MAY_HOLD = {"switcher_modelprofile", "switcher_host", "switcher_switchevent", "django_session"}


@dataclass
class Planted:
    """What was planted, and where it may not turn up."""

    server: Process
    session: requests.Session
    data: Path
    words: list[str] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)  # what was said meanwhile, by where

    def get(self, path: str) -> str:
        answer = self.session.get(f"{self.server.address}{path}", timeout=PATIENCE_S)
        answer.raise_for_status()
        return answer.text

    def post(self, path: str, **form: str) -> requests.Response:
        form["csrfmiddlewaretoken"] = self.session.cookies["csrftoken"]
        return self.session.post(f"{self.server.address}{path}", data=form, timeout=PATIENCE_S)


class Talkative:
    """A host whose answers have headers that are nobody's business; keeps the heads of what it is
    asked. A context manager."""

    def __init__(self, behind: str) -> None:
        self.heads: list[str] = []
        outer, real = self, urlsplit(behind).netloc

        class Handler(BaseHTTPRequestHandler):
            def pass_on(self) -> None:
                outer.heads.append(str(self.headers))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with closing(http.client.HTTPConnection(real, timeout=PATIENCE_S)) as host:
                    headers = {"Content-Type": "application/json"}
                    host.request(self.command, self.path, body, headers)
                    answer = host.getresponse()
                    whole = answer.read()
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers["Content-Type"] or "text/plain")
                self.send_header("Content-Length", str(len(whole)))
                for name in ("Set-Cookie", "X-Internal", "Server-Timing", "WWW-Authenticate"):
                    self.send_header(name, UPSTREAM)
                self.end_headers()
                self.wfile.write(whole)

            do_GET = do_POST = do_DELETE = do_HEAD = pass_on  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Talkative:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Listener:
    """A page's live socket: all that it is told. A context manager."""

    def __init__(self, address: str, session_id: str) -> None:
        self._address = address
        self._headers = {"Origin": address, "Cookie": f"session_id={session_id}"}
        self._stop, self.told = threading.Event(), list[str]()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)

    async def _listen(self) -> None:
        path = f"{self._address}/ws/live/?topics=board,events,host-north-1,switch-1"
        async with aiohttp.ClientSession() as client:
            async with client.ws_connect(path, headers=self._headers) as page:
                while not self._stop.is_set():
                    message = await page.receive(timeout=PATIENCE_S)
                    assert message.type is aiohttp.WSMsgType.TEXT, message
                    self.told.append(message.data)

    def __enter__(self) -> Listener:
        self._thread.start()
        until(lambda: self.told)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Planted]:
    data = tmp_path / "data"

    def with_all_in_the_log(data: Path) -> dict[str, str]:
        return environment(data) | {"SWITCHER_LOG_LEVEL": "DEBUG"}

    with simulated_host() as first, simulated_host() as second, Talkative(first.url) as talkative:
        seed(data, talkative.url, second.url)
        monkeypatch.setattr(process, "environment", with_all_in_the_log)
        with Process(data) as server:
            found = Planted(server, sign_in(server.address), data)
            with Listener(server.address, found.session.cookies["session_id"]) as listener:
                plant(found)
            found.told["live messages"] = "\n".join(listener.told)
            found.told[ASKED] = "\n".join(talkative.heads)
            yield found


def plant(to: Planted) -> None:
    """Through every door: sign-in, headers, a profile, a switch, a chat, the Django admin."""
    address, session = to.server.address, to.session
    fail_to_sign_in(address)
    session.headers["Authorization"] = f"Bearer {BEARER}"
    session.cookies["planted"] = COOKIE
    profile = {"name": "canary", "tag": "mid-a", "keep_alive": "30m", "options": "{}"}
    to.post("/profiles/add", **profile, warmup_prompt=WARM_UP, warmup_tokens="8")
    wish = {"profile": "canary", "host": "north-1", "reason": "for the canary test"}
    switched = session.post(f"{address}/ollama/models/switch", json=wish, timeout=PATIENCE_S)
    assert switched.status_code == 200, switched.text
    person = {"username": "eve", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
    to.get("/admin/auth/user/add/")
    to.post("/admin/auth/user/add/", **person, usable_password="true")
    assert "eve" in to.get("/admin/auth/user/")
    key = make_key(to)
    said = chat(to, key)
    to.words += [PROMPT, WARM_UP, PASSWORD, NEW_PASSWORD, TYPED, BEARER, COOKIE, UPSTREAM]
    to.words += [UNKNOWN_KEY, key, said[:40], session.cookies["session_id"], PASSWORDS["admin"]]
    session.get(f"{address}/ollama/models?host=north-1", timeout=PATIENCE_S).raise_for_status()


def fail_to_sign_in(address: str) -> None:
    """Under a name that is an account, and a password where the name belongs, until it is locked;
    and without a token."""
    requests.post(
        f"{address}/login/", data={"username": "eve", "password": PASSWORD}, timeout=PATIENCE_S
    )
    for name in ("admin", TYPED):
        with requests.Session() as other:
            other.get(f"{address}/login/", timeout=PATIENCE_S)
            token = {"csrfmiddlewaretoken": other.cookies["csrftoken"]}
            form = token | {"username": name, "password": PASSWORD}
            for _ in range(11):
                answer = other.post(f"{address}/login/", data=form, timeout=PATIENCE_S)
        assert answer.status_code == 429
        assert 0 < int(answer.headers["Retry-After"]) <= 900
        assert "Signing in is locked" in answer.text
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]


def make_key(to: Planted) -> str:
    """It is shown once, to who made it."""
    to.get("/keys/add")
    page = to.post("/keys/add", name="canary-key")
    found = re.search(r'value="(sb-[\w-]+)"', page.text)
    assert found is not None, page.text
    return found[1]


def chat(to: Planted, key: str) -> str:
    """With the new key, and in vain with one that never was; gives the answer."""
    address = f"{to.server.address}/v1/chat/completions"
    asked = {"model": "any", "messages": [{"role": "user", "content": PROMPT}]}
    for headers in ({"Authorization": f"Bearer {UNKNOWN_KEY}"}, {"X-Api-Key": UNKNOWN_KEY}):
        answer = requests.post(address, json=asked, headers=headers, timeout=PATIENCE_S)
        assert answer.status_code == 401
        to.told[f"refused {list(headers)}"] = str(answer.headers) + answer.text
    answer = requests.post(
        f"{address}?host=north-1",
        json=asked,
        headers={"Authorization": f"Bearer {key}", "Cookie": f"planted={COOKIE}"},
        timeout=PATIENCE_S,
    )
    assert answer.status_code == 200, answer.text
    to.told["heads of the answer"] = str(answer.headers)
    return str(answer.json()["choices"][0]["message"]["content"])


PAGES = ("/", "/hosts/", "/hosts/north-1/", "/profiles/", "/switches/", "/switches/1/", "/keys/",
         "/audit/", "/audit/people/admin/", "/audit/hosts/north-1/", "/audit/when/",
         "/audit/verify/", "/admin/switcher/auditentry/", "/admin/switcher/switchevent/1/change/",
         "/health", "/ollama/models?host=north-1", "/ollama/switches", "/ollama/switches/1",
         "/v1/models", "/api/docs", "/login/")  # fmt: skip


def told_by(planted: Planted) -> Iterator[tuple[str, str]]:
    """All that leaves, with its name."""
    address, session = planted.server.address, planted.session
    for query in ("format=jsonl", "format=csv", "format=jsonl&host=north-1"):
        answer = session.get(f"{address}/audit/export?{query}", timeout=PATIENCE_S)
        assert answer.status_code == 200
        yield f"export {query}", answer.text
    with closing(sqlite3.connect(planted.data / "switchboard.sqlite3")) as database:
        (newest,) = database.execute("SELECT max(seq) FROM switcher_ledgerrow").fetchone()
        yield from stored_in(database)
    for page in [*PAGES, *(f"/audit/{seq}/" for seq in range(1, newest + 1))]:
        yield page, planted.get(page)
    yield from planted.told.items()
    out = planted.data.parent / "trail.jsonl"
    done = python("manage.py", "audit", "export", str(out), data=planted.data)
    assert done.returncode == 0, done.stderr
    yield "audit export", done.stdout + done.stderr + out.read_text()
    anchors = planted.data / "anchors.txt"
    until(anchors.exists)
    yield "anchors", anchors.read_text()
    yield "the log", planted.server.output


def stored_in(database: Any) -> Iterator[tuple[str, str]]:
    """All tables, also those that the libraries bring along."""
    names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (name,) in names:
        if name not in MAY_HOLD:
            rows = database.execute(f'SELECT * FROM "{name}"').fetchall()
            yield name, "\n".join(str(row) for row in rows)


def test_nothing_secret_is_in_anything_that_leaves(planted: Planted) -> None:
    seen = {}
    for name, text in told_by(planted):
        seen[name] = len(text)
        # A host gets its own cookies back, and nobody else's.
        words = [w for w in planted.words if (name, w) != (ASKED, UPSTREAM)]
        assert [word for word in words if word in text] == [], name
    assert sum(seen.values()) > 100_000
    assert min(seen[name] for name in planted.told) > 100
    trail = planted.get("/audit/?kind=people")
    for told in ("unknown account", "is locked until", "Added user eve", "A key was refused"):
        assert told in trail
    assert "for the canary test" in planted.get("/audit/?kind=switches")
