from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management.base import CommandError

from switcher.domain.addresses import check_address
from switcher.domain.drift import Kind
from switcher.management.terminal import size_bytes, until_text
from switcher.models import ApiKey, AuditEntry, Host, ModelProfile
from switcher.records import config
from tests import make
from tests.commands.conftest import ADMIN, run
from tests.simulated import SimulatedOllama
from tests.until import PATIENCE_S


def test_status_shows_what_is_loaded_and_what_is_active(
    host: Host, simulator: SimulatedOllama
) -> None:
    run("switch", "mid-a")
    ran = run("status")
    assert ran.code == 0
    first, head, row = ran.out.splitlines()
    assert first.startswith(f"tower (default) at {simulator.url}")
    assert head.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert row.startswith("mid-a ")
    assert "100% GPU" in row
    assert "30 minutes from now" in row
    assert row.endswith("ACTIVE")


def test_status_warns(host: Host, simulator: SimulatedOllama, unused_tcp_port: int) -> None:
    config.put_host({"name": "gone", "base_url": f"http://127.0.0.1:{unused_tcp_port}"}, ADMIN)
    ran = run("status")
    assert "No model is loaded." in ran.out
    assert "Warning: no model is active" in ran.out
    assert f"Warning: Connection refused at http://127.0.0.1:{unused_tcp_port}." in ran.out
    Host.objects.filter(name="tower").update(
        active_tag="mid-a", active_digest="x", degraded="It holds nothing."
    )
    ran = run("status", "--host", "tower")
    assert "Warning: degraded: It holds nothing." in ran.out
    assert "Warning: mid-a is active, but not loaded" in ran.out
    assert "gone" not in ran.out


def test_status_warns_of_another_context(host: Host, simulator: SimulatedOllama) -> None:
    """Fact 12: a request with other options has reloaded it."""
    run("profiles", "add", "coder", "mid-a", "--num-ctx", "8192")
    assert run("switch", "--profile", "coder").code == 0
    assert "Warning" not in run("status").out
    row = Host.objects.get()
    spec = dict(row.active_spec or {}) | {"options": {"num_ctx": 1024}}
    Host.objects.update(active_spec=spec)
    assert "mid-a is loaded with context 8192, not 1024" in run("status").out


def test_status_warns_of_recorded_drift(host: Host, simulator: SimulatedOllama) -> None:
    run("switch", "mid-a")
    host.refresh_from_db()
    text = "The keep-alive of mid-a was shortened: the model unloads at 14:28:07."
    make.drift(host, Kind.SHORTENED, "mid-a", text, at=datetime.now(UTC))
    assert f"Warning: {text}" in run("status").out
    assert run("status", "--json").json()[0]["warnings"] == [text]


def test_status_as_json(host: Host, simulator: SimulatedOllama) -> None:
    run("switch", "mid-a")
    (row,) = run("status", "--json").json()
    assert row["active"]["model"] == "mid-a:latest"
    assert [r["active"] for r in row["resident"]] == [True]
    assert row["error"] is None
    assert run("status", "--host", "nowhere").code == 1


def test_hosts_are_added_listed_and_removed(transactional_db: None) -> None:
    assert "There is no host yet" in run("hosts").out
    added = run(
        *("hosts", "add", "gpu-1", "10.0.0.21:11434/", "--vram", "24GB", "--parallel", "4"),
        *("--simulated", "--strategy", "swap"),
    )
    assert added.code == 0
    row = Host.objects.get()
    assert row.base_url == "http://10.0.0.21:11434"
    assert (row.vram_bytes, row.simulated, row.strategy) == (24_000_000_000, True, "swap")
    listed = run("hosts").out
    assert "gpu-1" in listed
    assert "default, simulated" in listed
    (told,) = run("hosts", "--json").json()
    assert (told["name"], told["parallel_requests"]) == ("gpu-1", 4)
    assert run("hosts", "remove", "gpu-1").code == 0
    assert not Host.objects.filter(removed_at=None).exists()
    kinds = AuditEntry.objects.values_list("kind", flat=True)
    assert set(kinds) == {"host.added", "host.removed"}


@pytest.mark.parametrize(
    "args",
    [
        ("add", "GPU 1", "http://10.0.0.1"),
        ("add", "gpu-1", "ftp://10.0.0.1"),
        ("add", "gpu-1", "http://user:pw@10.0.0.1"),
        ("add", "gpu-1", "http://10.0.0.1", "--keep-alive", "30"),
        ("remove", "nowhere"),
    ],
)
def test_invalid_hosts_are_code_1(transactional_db: None, args: tuple[str, ...]) -> None:
    ran = run("hosts", *args)
    assert ran.code == 1
    assert ran.err.strip()
    assert not Host.objects.exists()


@pytest.mark.parametrize("count", ["0", "-1", "many", "1.5", "101"])
@pytest.mark.parametrize("option", ["--max-loaded", "--parallel"])
def test_a_limit_that_no_server_has_is_refused_by_its_name(
    transactional_db: None, option: str, count: str
) -> None:
    """A negative one was refused by the database, as if the host's name were taken."""
    with pytest.raises(CommandError, match=f"{option}: '{count}' is not a whole number from 1 to"):
        run("hosts", "add", "gpu-1", "http://10.0.0.1", option, count)
    assert not Host.objects.exists()


def test_profiles_are_added_listed_and_removed(transactional_db: None) -> None:
    assert "There is no profile yet" in run("profiles").out
    assert run("profiles", "add", "coder", "qwen2.5:14b", "--keep-alive", "-1", "--num-ctx", "8192")
    row = ModelProfile.objects.get()
    assert (row.keep_alive, row.options) == ("forever", {"num_ctx": 8192})
    assert "num_ctx=8192" in run("profiles").out
    assert run("profiles", "add", "coder", "other").code == 1
    assert run("profiles", "add", "a", "b c").code == 1
    assert run("profiles", "add", "a", "b", "--min-gpu", "101").code == 1
    assert run("profiles", "remove", "coder").code == 0
    assert run("profiles", "remove", "coder").code == 1


def test_a_profile_in_use_is_kept_with_code_5(host: Host) -> None:
    run("profiles", "add", "small", "mid-a")
    assert run("switch", "--profile", "small").code == 0
    ran = run("profiles", "remove", "small")
    assert ran.code == 5
    assert "in use on tower" in ran.err


def test_a_profile_that_a_key_is_bound_to_is_kept_with_code_5(transactional_db: None) -> None:
    run("profiles", "add", "small", "mid-a")
    assert run("keys", "make", "chat-ui", "--profile", "small").code == 0
    ran = run("profiles", "remove", "small")
    assert (ran.code, "keys are bound to small: chat-ui" in ran.err) == (5, True)
    assert run("keys", "off", str(ApiKey.objects.get().pk)).code == 0
    assert run("profiles", "remove", "small").code == 0


def test_a_key_is_made_with_its_scopes_and_fallbacks(transactional_db: None) -> None:
    run("profiles", "add", "small", "mid-a")
    assert run("keys", "make", "deploy", "--switch", "--fallback", "small").code == 0
    key = ApiKey.objects.get()
    assert (key.may_switch, key.manage, key.fallback) == (True, False, ["small"])
    assert "switch" in run("keys").out


def test_the_simulator_is_a_command_that_needs_no_database() -> None:
    with subprocess.Popen(
        [sys.executable, "manage.py", "simulator", "--port", "0", "--model", "mid-a=1GB"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "listening on http://127.0.0.1:" in process.stdout.readline()
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("24GB", 24 * 10**9),
        ("1.5gb", 1_500_000_000),
        ("2GiB", 2**31),
        ("42", 42),
        ("3M", 3 * 10**6),
    ],
)
def test_sizes_are_read(text: str, count: int) -> None:
    assert size_bytes(text) == count


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:11434", "http://10.0.0.1:11434"),
        (" https://ollama.example/ ", "https://ollama.example"),
        ("http://[::1]:11434", "http://[::1]:11434"),
    ],
)
def test_addresses_are_read(text: str, address: str) -> None:
    assert check_address(text) == address


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "Stopping..."),
        (20, "20 seconds from now"),
        (1800, "30 minutes from now"),
        (7200, "2 hours from now"),
    ],
)
def test_expiry_is_shown_as_ollama_shows_it(seconds: int, text: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert until_text(now + timedelta(seconds=seconds), False, now) == text
    assert until_text(now, True, now) == "Forever"


def test_another_spelling_of_a_hosts_address_is_refused_with_its_name(host: Host) -> None:
    port = host.base_url.rsplit(":", 1)[1]
    ran = run("hosts", "add", "again", f"http://localhost:{port}/")
    assert ran.code == 1
    assert "tower" in ran.err
    assert Host.objects.count() == 1
