"""The whole product: a server, two simulated hosts, an admin, an operator and an auditor."""

from __future__ import annotations

from pathlib import Path

import requests

from tests.server.process import Process, environment, python
from tests.simulated import SimulatedOllama

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


def simulated_host() -> SimulatedOllama:
    """A host whose loads take about a second; mid-a and mid-b fit together, big with neither."""
    models = ("mid-a=4GB", "mid-b=4GB", "big=8GB", "embed=100MB,embed")
    return SimulatedOllama(*models, vram="10GB", load_rate="4GB")


def seed(data: Path, first: str, second: str) -> None:
    """Create hosts, profiles and people."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    done = python("-c", SEED.format(first=first, second=second, **PASSWORDS), data=data)
    assert done.returncode == 0, done.stderr


def sign_in(address: str, name: str = "admin") -> requests.Session:
    """Sign in as the README does with curl: a form with a token, and the cookie `session_id`."""
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


__all__ = ["PASSWORDS", "Process", "environment", "seed", "sign_in", "simulated_host"]
