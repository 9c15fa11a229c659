"""A server that can write to no file any longer, as on a full disk."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.server.process import Process, python
from tests.simulated import SimulatedOllama
from tests.until import PATIENCE_S, until

SEED = """
import django, sys
django.setup()
from django.core.management import call_command
from switcher.audit.ledger import SERVER
from switcher.models import Host
from switcher.records import config, keys
from switcher.records.keys import NewKey
from switcher.switching.service import SwitchRequest, request_switch
from switcher.switching.worker import run_once
call_command("migrate", verbosity=0)
config.save_host(Host(name="tower", base_url=sys.argv[1]), SERVER)
row, _ = request_switch(SwitchRequest(model="mid-a"), SERVER)
assert run_once(row.pk)
print(keys.make_key(NewKey("tests"), SERVER)[1])
"""


@contextmanager
def no_room_in_files(pid: int) -> Iterator[None]:
    """Let each write of a process to a file fail. Only root fills a real disk in a test."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def test_chats_are_answered_while_nothing_can_be_written(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    with SimulatedOllama("mid-a=1GB", load_rate="50GB") as ollama:
        seeded = python("-c", SEED, ollama.url, data=data)
        assert seeded.returncode == 0, seeded.stderr
        headers = {"Authorization": f"Bearer {seeded.stdout.split()[-1]}"}
        with Process(data) as server:

            def chat() -> requests.Response:
                body = {"messages": [{"role": "user", "content": "Hello"}]}
                url = f"{server.address}/v1/chat/completions"
                return requests.post(url, json=body, headers=headers, timeout=PATIENCE_S)

            def stale() -> bool:
                reply = chat()
                assert reply.status_code == 200, reply.text
                return "X-Switchboard-Routes" in reply.headers

            assert not stale()
            with no_room_in_files(server.popen.pid):
                until(stale)
                assert chat().json()["choices"][0]["message"]["content"].startswith("[mid-a]")
            until(lambda: not stale())
