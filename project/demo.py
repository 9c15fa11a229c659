"""The demo: two simulated hosts, an admin, an auditor, profiles and a short history.

Each host is a simulator in a process of its own, addressed like any other server. The history
consists of real switches on them.
"""

from __future__ import annotations

import ctypes
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import requests
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import connections

from project.environment import read_environment
from project.first_start import ADMIN
from switcher.access import AUDITORS
from switcher.audit.ledger import Actor
from switcher.domain.specs import Spec
from switcher.models import Host, ModelProfile, SwitchEvent
from switcher.ollama.calls import Call
from switcher.ollama.client import Client
from switcher.ollama.errors import OllamaError
from switcher.records import config
from switcher.records.people import acting
from switcher.switching.service import SwitchRequest, request_switch
from switcher.switching.worker import run_once

AUDITOR = "auditor"
BY_DEMO = Actor("demo", "command")
LOAD_RATE = 4_000_000_000  # bytes per second, so that a switch lasts a few seconds


@dataclass(frozen=True)
class SimulatedHost:
    name: str
    vram: int
    models: tuple[str, ...]


MODELS = {
    "llama3.1:8b": "4920753328",
    "qwen2.5:7b": "4683087332",
    "qwen2.5:14b": "8988124069",
    "qwen2.5:32b": "19851349390",
    "mistral-small:24b": "14333928010",
    "llama3.3:70b": "42520413916",
    "nomic-embed-text": "274302450,embed",
}
HOSTS = (
    SimulatedHost(
        "gpu-1",
        24_000_000_000,
        ("llama3.1:8b", "qwen2.5:7b", "qwen2.5:14b", "qwen2.5:32b", "nomic-embed-text"),
    ),
    SimulatedHost(
        "gpu-2",
        48_000_000_000,
        ("llama3.1:8b", "qwen2.5:14b", "mistral-small:24b", "llama3.3:70b", "nomic-embed-text"),
    ),
)
PROFILES: dict[str, dict[str, object]] = {
    "llama-8b": {"tag": "llama3.1:8b", "notes": "The everyday model."},
    "qwen-7b": {"tag": "qwen2.5:7b"},
    "qwen-14b": {
        "tag": "qwen2.5:14b",
        "keep_alive": "2h",
        "warmups": [
            {"prompt": "Hello", "num_predict": 8},
            {"prompt": "Summarise in one sentence: the GPU was busy.", "num_predict": 24},
        ],
    },
    "qwen-32b": {
        "tag": "qwen2.5:32b",
        "min_gpu_percent": 95,
        "notes": "Needs nearly all of the card: not together with another large model.",
    },
    "mistral-24b": {"tag": "mistral-small:24b", "keep_alive": "forever"},
    "llama-70b": {"tag": "llama3.3:70b", "load_timeout_s": 600},
    "embed": {"tag": "nomic-embed-text", "keep_alive": "forever"},
}
OUT_OF_MEMORY = "llama runner process has terminated: cudaMalloc failed: out of memory"


# Profiles and reasons of the switches on each host. The load of FAILS is refused once.
HISTORY = {
    "gpu-1": (
        ("llama-8b", "First model for the team"),
        ("qwen-32b", "Try the larger model for triage"),
        ("qwen-7b", "Faster answers for the support bot"),
    ),
    "gpu-2": (("mistral-24b", "Long tickets need more context"),),
}
FAILS = "qwen-32b"


def start_simulators(first_port: int) -> list[tuple[SimulatedHost, str]]:
    """Start one simulator for each host and return their addresses, using another port if one is
    taken. They end with this process.
    """
    started = [_spawn(host, first_port + n) for n, host in enumerate(HOSTS)]
    found = []
    for host, process in zip(HOSTS, started, strict=True):
        address = _address_of(process) or _address_of(_spawn(host, 0))
        if not address:
            raise RuntimeError(f"The simulator for {host.name} did not start.")
        found.append((host, address))
    return found


def _spawn(host: SimulatedHost, port: int) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own interpreter and words
        [
            *(sys.executable, "-m", "ollama_simulator", "--port", str(port)),
            *("--vram", str(host.vram), "--load-rate", str(LOAD_RATE)),
            *(part for m in host.models for part in ("--model", f"{m}={MODELS[m]}")),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=_end_with_parent,
    )


def _address_of(process: subprocess.Popen[str]) -> str:
    """Return the address at which it listens; empty if it has exited."""
    assert process.stdout is not None
    line = process.stdout.readline()
    return line[line.index("http://") :].strip() if "http://" in line else ""


def _end_with_parent() -> None:
    """Make Linux send SIGTERM to the child whenever its parent dies."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def people() -> dict[str, str]:
    """Create the admin and the auditor, or reset their passwords. Return the passwords by name."""
    given = read_environment()
    passwords = {
        ADMIN: given.admin_password or secrets.token_urlsafe(9),
        AUDITOR: given.auditor_password or secrets.token_urlsafe(9),
    }
    for name, password in passwords.items():
        with acting(lambda: BY_DEMO):
            _ensure_person(name, password)
    return passwords


def _ensure_person(name: str, password: str) -> None:
    users = get_user_model()
    user = users.objects.filter(username=name).first() or users(username=name)
    user.is_staff, user.is_superuser = True, name == ADMIN
    if not user.password or not user.check_password(password):
        user.set_password(password)
    user.save()
    if name == AUDITOR:
        user.groups.set(Group.objects.filter(name=AUDITORS))


def set_up(simulators: Iterable[tuple[SimulatedHost, str]]) -> None:
    """Create missing hosts and profiles, and update the hosts' addresses."""
    for name, values in PROFILES.items():
        if not ModelProfile.objects.filter(name=name).exists():
            config.save_profile(ModelProfile(name=name, **values), BY_DEMO)
    for simulated, address in simulators:
        host = Host.objects.filter(name=simulated.name, removed_at=None).first()
        if host is None:
            host = Host(name=simulated.name, vram_bytes=simulated.vram, simulated=True)
        if host.base_url != address:
            host.base_url = address
            config.save_host(host, BY_DEMO)


def make_history(say: Callable[[str], None]) -> None:
    """Run a few real switches, on both hosts at once; one of them fails and rolls back."""
    with ThreadPoolExecutor() as pool:
        done = [pool.submit(_switch_through, *steps, say) for steps in HISTORY.items()]
    for each in done:
        each.result()


def _switch_through(
    name: str, steps: Iterable[tuple[str, str]], say: Callable[[str], None]
) -> None:
    try:
        host = Host.objects.get(name=name, removed_at=None)
        for profile, reason in steps:
            if profile == FAILS:
                _refuse_next_load(host.base_url, PROFILES[profile]["tag"])
            request = SwitchRequest(profile=profile, host=name, reason=reason)
            row, _ = request_switch(request, BY_DEMO)
            run_once(row.pk)
            say(f"  {name}: {SwitchEvent.objects.get(pk=row.pk).outcome}")
    finally:
        connections.close_all()


def _refuse_next_load(base_url: str, tag: object) -> None:
    """Make the next load of `tag` fail for lack of memory. Only a simulator can do this."""
    fault = {"kind": "fail_load", "tag": tag, "times": 1, "message": OUT_OF_MEMORY}
    requests.post(f"{base_url}/_sim/faults", json=fault, timeout=5).raise_for_status()


def reload_active(say: Callable[[str], None]) -> None:
    """Load the active models again, as a client would: new simulators have no model loaded."""
    for host in Host.objects.filter(simulated=True, removed_at=None).exclude(active_tag=""):
        if host.active_spec:
            thread = threading.Thread(
                target=_load, args=(host.base_url, Spec.from_json(host.active_spec)), daemon=True
            )
            thread.start()
            say(f"  {host.name}: loading {host.active_tag} again")


def _load(base_url: str, spec: Spec) -> None:
    client = Client(base_url)
    try:
        client.load(spec, embeds=False, timeout_s=60, call=Call())
    except OllamaError:
        pass  # the page shows that nothing is loaded
    finally:
        client.close()
