"""Start the whole product: a server, two simulated hosts, an admin, an operator and an auditor."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import requests

from tests.server.process import Process, environment, python
from tests.simulated import SimulatedOllama
from tests.until import PATIENCE_S

PASSWORDS = {name: f"the password of {name}" for name in ("admin", "ben", "auditor")}

SEED = """
import django; django.setup()
import json
from importlib import import_module
from django.conf import settings
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
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
sessions = {{}}
for user in User.objects.all():
    store = import_module(settings.SESSION_ENGINE).SessionStore()
    store[SESSION_KEY] = str(user.pk)
    store[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    store[HASH_SESSION_KEY] = user.get_session_auth_hash()
    store.save()
    sessions[user.username] = store.session_key
print(json.dumps(sessions))
"""


def simulated_host() -> SimulatedOllama:
    """Start a host on which a load takes about a second. mid-a and mid-b fit together; big fits
    only alone."""
    models = ("mid-a=4GB", "mid-b=4GB", "big=8GB", "embed=100MB,embed")
    return SimulatedOllama(*models, vram="10GB", load_rate="4GB")


def seed(data: Path, first: str, second: str) -> dict[str, str]:
    """Create hosts, profiles and people. Return a session key for each person."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    done = python("-c", SEED.format(first=first, second=second, **PASSWORDS), data=data)
    assert done.returncode == 0, done.stderr
    sessions: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return sessions


def move_hosts(data: Path, first: str, second: str) -> None:
    """Give the hosts of a copied database other addresses."""
    with closing(sqlite3.connect(data / "switchboard.sqlite3")) as database, database:
        for name, url in (("north-1", first), ("south-1", second)):
            database.execute("UPDATE switcher_host SET base_url = ? WHERE name = ?", (url, name))


def sign_in(address: str, name: str = "admin") -> requests.Session:
    """Sign in as the README does with curl: a form with a token, and the cookie `session_id`."""
    session = requests.Session()
    session.get(f"{address}/login/", timeout=PATIENCE_S)
    form = {
        "username": name,
        "password": PASSWORDS[name],
        "csrfmiddlewaretoken": session.cookies["csrftoken"],
    }
    session.post(f"{address}/login/", data=form, timeout=PATIENCE_S).raise_for_status()
    assert session.cookies["session_id"]
    return session


__all__ = [
    "PASSWORDS",
    "Process",
    "environment",
    "move_hosts",
    "seed",
    "sign_in",
    "simulated_host",
]
