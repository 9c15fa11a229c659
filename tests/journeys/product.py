"""The product as a person meets it: the server, two simulated hosts, an admin and an auditor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

from tests.server.process import ROOT, Process, environment, python

PASSWORDS = {name: f"the password of {name}" for name in ("admin", "ben", "auditor")}

SEED = """
import django; django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.auth.models import Group, User
from switcher.models import Host, ModelProfile
from switcher.records import config
from switcher.audit.ledger import SERVER
User.objects.create_superuser("admin", password={admin!r})
auditor = User.objects.create_user("auditor", password={auditor!r}, is_staff=True)
auditor.groups.add(Group.objects.get(name="auditors"))
ben = User.objects.create_user("ben", password={ben!r}, is_staff=True)
ben.groups.add(Group.objects.get(name="operators"))
for name, tag in (("a", "mid-a"), ("b", "mid-b"), ("large", "big")):
    config.save_profile(ModelProfile(name=name, tag=tag), SERVER)
for name, url in (("north-1", {first!r}), ("south-1", {second!r})):
    config.save_host(
        Host(name=name, base_url=url, vram_bytes=10_000_000_000, simulated=True), SERVER
    )
"""


class Simulator:
    """A simulated Ollama in a process of its own. A context manager."""

    MODELS = ("mid-a=4GB", "mid-b=4GB", "big=8GB", "embed=100MB,embed")

    def __init__(self, *args: str) -> None:
        models = [part for model in self.MODELS for part in ("--model", model)]
        self._popen = subprocess.Popen(
            [
                *(sys.executable, "-m", "ollama_simulator", "--port", "0"),
                *("--vram", "10GB", "--load-rate", "4GB", *models, *args),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        self.url = line[line.index("http://") :].strip()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(self, *_: object) -> None:
        self._popen.kill()
        self._popen.wait(10)
        assert self._popen.stdout is not None
        self._popen.stdout.close()

    def fault(self, **fault: Any) -> None:
        requests.post(f"{self.url}/_sim/faults", json=fault, timeout=5).raise_for_status()

    def act(self, **act: Any) -> None:
        requests.post(f"{self.url}/_sim/acts", json=act, timeout=5).raise_for_status()

    def resident(self) -> set[str]:
        """Names as `/api/ps` lists them, without `:latest`."""
        rows = requests.get(f"{self.url}/api/ps", timeout=5).json()["models"]
        return {row["name"].removesuffix(":latest") for row in rows}


def seed(data: Path, first: str, second: str) -> None:
    """Hosts, profiles and people."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    done = python("-c", SEED.format(first=first, second=second, **PASSWORDS), data=data)
    assert done.returncode == 0, done.stderr


def sign_in(address: str, name: str = "admin") -> requests.Session:
    """As the README does it with curl: a form with a token, and a cookie named session_id."""
    session = requests.Session()
    session.get(f"{address}/login/", timeout=10)
    form = {
        "username": name,
        "password": PASSWORDS[name],
        "csrfmiddlewaretoken": session.cookies["csrftoken"],
    }
    session.post(f"{address}/login/", data=form, timeout=10).raise_for_status()
    assert session.cookies["session_id"]
    return session


__all__ = ["PASSWORDS", "Process", "Simulator", "environment", "seed", "sign_in"]
