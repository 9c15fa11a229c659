"""What the environment sets, and the errors for invalid values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from project.checks import check_open_gateway
from project.environment import postgres, read_environment, stored_secret_key, variables


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in variables():
        monkeypatch.delenv(name, raising=False)


def test_nothing_is_required() -> None:
    found = read_environment()
    assert found.data_dir == Path("data")
    assert (found.https, found.allowed_hosts, found.login_failures) == (False, [], 10)


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHER_ALLOWED_HOSTS", "a.example, b.example,")
    monkeypatch.setenv("SWITCHER_TRUSTED_PROXIES", "127.0.0.1,10.0.0.0/8,::1")
    found = read_environment()
    assert found.allowed_hosts == ["a.example", "b.example"]
    networks = [str(network) for network in found.trusted_proxies]
    assert networks == ["127.0.0.1/32", "10.0.0.0/8", "::1/128"]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("1", True), ("true", True), ("YES ", True), ("on", True), ("0", False), ("off", False)],
)
def test_switches_are_on_or_off(text: str, meaning: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHER_HTTPS", text)
    assert read_environment().https is meaning


@pytest.mark.parametrize(
    ("text", "meaning"),
    [("no-proxy", "no-proxy"), (" NO-PROXY", "no-proxy"), ("1", "unconfirmed"), ("0", "off")],
)
def test_an_open_gateway_needs_the_word_that_no_proxy_is_here(
    text: str, meaning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWITCHER_OPEN_GATEWAY", text)
    assert read_environment().open_gateway == meaning


def test_an_open_gateway_without_that_word_is_warned_of(settings: Any) -> None:
    settings.SWITCHER_OPEN_GATEWAY_UNCONFIRMED = True
    (warned,) = check_open_gateway()
    assert "SWITCHER_OPEN_GATEWAY=no-proxy" in str(warned.hint)
    settings.SWITCHER_OPEN_GATEWAY_UNCONFIRMED = False
    assert not check_open_gateway()


def test_names_of_the_server_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "*, A.example,.b.example,gpu_gateway,10.0.0.1,::1,[::1],a.example."
    monkeypatch.setenv("SWITCHER_ALLOWED_HOSTS", text)
    assert ",".join(read_environment().allowed_hosts) == (
        "*,a.example,.b.example,gpu_gateway,10.0.0.1,[::1],[::1],a.example."
    )


def test_what_is_empty_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in variables():
        monkeypatch.setenv(name, "")
    assert read_environment().audit_origin == "switchboard"


def test_passwords_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWITCHER_ADMIN_PASSWORD", " 12345, with spaces ")
    monkeypatch.setenv("OLLAMA_HOST", "0.0.0.0:11434")
    found = read_environment()
    assert found.admin_password == " 12345, with spaces "
    assert found.ollama_host == "0.0.0.0:11434"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("SWITCHER_LOGIN_FAILURES", "ten", "should be a valid integer"),
        ("SWITCHER_LOGIN_FAILURES", "0", "should be greater than or equal to 1"),
        ("SWITCHER_LOGIN_LOCKOUT_MINUTES", "1000000", "should be less than 1000000"),
        ("SWITCHER_AUDIT_KEEP_DAYS", "-1", "should be greater than or equal to 0"),
        ("SWITCHER_HTTPS", "perhaps", "should be a valid boolean"),
        ("SWITCHER_TRUSTED_PROXIES", "127.0.0.1,here", "not a valid IPv4 or IPv6 network"),
        ("SWITCHER_ALLOWED_HOSTS", "https://a.example", "no host name: write it without scheme"),
        ("SWITCHER_ALLOWED_HOSTS", "a.example:8000", "'a.example:8000' is no host name"),
        ("SWITCHER_ALLOWED_HOSTS", "a.example/x", "'a.example/x' is no host name"),
        ("SWITCHER_ALLOWED_HOSTS", "*.a.example", "is no host name"),
        ("SWITCHER_TRUSTED_ORIGINS", "a.example", "is not an origin such as https://"),
        ("SWITCHER_TRUSTED_ORIGINS", "https://a.example/", "is not an origin such as https://"),
        ("SWITCHER_TRUSTED_PROXIES", "10.0.0.1/8", "not a valid IPv4 or IPv6 network"),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_variable(
    name: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(ImproperlyConfigured, match=said) as refused:
        read_environment()
    assert str(refused.value).startswith(f"{name}: ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (
            "postgres://u:p%40ss@db.example:5433/name?sslmode=verify-full&sslrootcert=/ca.pem",
            {"USER": "u", "PASSWORD": "p@ss", "HOST": "db.example", "PORT": "5433", "NAME": "name"},
        ),
        (
            "postgresql:///name?host=/run/pg&sslmode=verify-full&sslrootcert=/ca.pem",
            {"HOST": "/run/pg"},
        ),
        ("postgres://a,b/n?sslmode=verify-full&sslrootcert=/ca.pem", {"HOST": "a,b", "NAME": "n"}),
    ],
)
def test_the_database_url_keeps_its_parameters(url: str, found: dict[str, str]) -> None:
    settings = postgres(url)
    assert found.items() <= settings.items()
    options = settings["OPTIONS"]
    assert (options["sslmode"], options["sslrootcert"]) == ("verify-full", "/ca.pem")
    assert options["options"] == "-c idle_in_transaction_session_timeout=10s -c lock_timeout=20s"


def test_options_of_the_database_url_are_added_to_ours() -> None:
    options = postgres("postgres://db/n?options=-c%20search_path%3Dx")["OPTIONS"]["options"]
    assert options.endswith("lock_timeout=20s -c search_path=x")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:s3cret@db/n", "must begin with postgres://"),
        ("postgres://u:s3cret@db/n?sslmod=verify-full", 'invalid URI query parameter: "sslmod"'),
        ("postgres://u:s3 cret@db/n", "percent-encode the special characters"),
        ("postgres://u:s3%cret@db/n", "percent-encode the special characters"),
    ],
)
def test_an_unreadable_database_url_is_refused_without_its_password(url: str, said: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=said) as refused:
        postgres(url)
    assert "s3" not in str(refused.value)


def test_the_secret_key_is_generated_once_and_must_stay_private(tmp_path: Path) -> None:
    key = stored_secret_key(tmp_path)
    assert stored_secret_key(tmp_path) == key
    assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600
    os.chmod(tmp_path / "secret_key", 0o644)
    with pytest.raises(ImproperlyConfigured, match="chmod 600"):
        stored_secret_key(tmp_path)
