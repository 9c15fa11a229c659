"""A server as a real process, with its own data, on loopback."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tests.until import PATIENCE_S, until

ROOT = Path(__file__).resolve().parents[2]
WITH_EXTRAS = "tests/server/with_extras.py"

SEED = """
import django
django.setup()
from django.core.management import call_command
from django.contrib.auth import SESSION_KEY, BACKEND_SESSION_KEY, HASH_SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
call_command("migrate", verbosity=0)
user = User.objects.create_superuser("admin", password="a demo password")
store = SessionStore()
store[SESSION_KEY] = str(user.pk)
store[BACKEND_SESSION_KEY] = "switcher.access.RoleBackend"
store[HASH_SESSION_KEY] = user.get_session_auth_hash()
store.save()
print("session", store.session_key)
"""


def environment(data: Path) -> dict[str, str]:
    """Return the minimal environment of a server process, with nothing from this process's."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "SWITCHER_DATA_DIR": str(data),
        "PYTHONUNBUFFERED": "1",
    }


def python(*args: str, data: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python program on this data to its end."""
    return subprocess.run(
        [sys.executable, *args],
        env=environment(data),
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )


def seed(data: Path) -> str:
    """Create a database with a signed-in admin; return the key of the session."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    done = python("-c", SEED, data=data)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def copy(template: Path, data: Path) -> Path:
    """Copy the data for a single test."""
    shutil.copytree(template, data)
    data.chmod(0o700)
    return data


class Process:
    """`manage.py serve`, from its start to its end. A context manager; port 0 means any."""

    def __init__(
        self, data: Path, *args: str, port: int = 0, program: str = "manage.py", **env: str
    ) -> None:
        self.address = ""
        self.lines: list[str] = []
        self.popen = subprocess.Popen(
            [sys.executable, program, "serve", "--port", str(port), *args],
            env=environment(data) | env,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip())
            if found := re.search(r"listens on (http://\S+?)/?$", line.rstrip()):
                self.address = found[1]

    def __enter__(self) -> Process:
        until(lambda: self.address or self.popen.poll() is not None)
        assert self.address, self.output
        return self

    def __exit__(self, *_: object) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGCONT)
            self.popen.kill()
        self.popen.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self.popen.stdout is not None
        self.popen.stdout.close()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def port(self) -> int:
        return int(self.address.rsplit(":", 1)[1])

    def terminate(self) -> None:
        self.popen.send_signal(signal.SIGTERM)

    def end(self) -> int:
        """Ask it to end, and return the exit code."""
        self.terminate()
        return self.popen.wait(PATIENCE_S)
