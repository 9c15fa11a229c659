"""What the environment says, with defaults that need nothing set."""

from __future__ import annotations

import os
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key


def flag(name: str) -> bool:
    """Whether the variable is set to something that means yes."""
    return os.environ.get(name, "").strip().lower() in {"1", "true", "yes", "on"}


def hosts(name: str, default: list[str]) -> list[str]:
    """A comma-separated list."""
    given = [part.strip() for part in os.environ.get(name, "").split(",") if part.strip()]
    return given or default


def package_dir(name: str) -> Path:
    """Where a package lies, without importing it."""
    found = find_spec(name)
    if found is None or found.origin is None:
        raise ImproperlyConfigured(f"The package {name} is not installed.")
    return Path(found.origin).parent


def number(name: str, default: int, least: int = 1) -> int:
    """A whole number from `least` on."""
    given = os.environ.get(name, "").strip() or str(default)
    if not (given.isascii() and given.isdecimal() and least <= int(given) < 1_000_000):
        raise ImproperlyConfigured(f"{name} is a number from {least} on, not {given!r}.")
    return int(given)


def networks(name: str, default: list[str]) -> list[str]:
    """Addresses and networks, such as `127.0.0.1,10.0.0.0/8`."""
    found = hosts(name, default)
    for text in found:
        try:
            ip_network(text)
        except ValueError as exc:
            raise ImproperlyConfigured(f"{name}: {exc}.") from exc
    return found


def data_dir() -> Path:
    """Where the database and the secret key are kept; made if missing, for the owner alone, as is
    every file that is made in it: the database holds sessions and hashes of passwords."""
    os.umask(0o077)
    path = Path(os.environ.get("SWITCHER_DATA_DIR", "data")).resolve()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def secret_key(directory: Path) -> str:
    """The secret key: from SWITCHER_SECRET_KEY, else made once and kept with mode 600."""
    given = os.environ.get("SWITCHER_SECRET_KEY")
    if given:
        return given
    path = directory / "secret_key"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            raise ImproperlyConfigured(
                f"{path} can be read by others. Run: chmod 600 {path}"
            ) from None
        return path.read_text().strip()
    with os.fdopen(fd, "w") as file:
        key = get_random_secret_key()
        file.write(key)
    return key


def file_or_off(name: str, default: Path) -> str:
    """A path, or nothing where the variable says `off`."""
    given = os.environ.get(name, "").strip()
    return "" if given.lower() == "off" else given or str(default)


def database(directory: Path) -> dict[str, Any]:
    """SQLite in the data directory, or what SWITCHER_DATABASE_URL (postgres://…) names."""
    url = os.environ.get("SWITCHER_DATABASE_URL")
    return _postgres(url) if url else _sqlite(directory)


def _sqlite(directory: Path) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": directory / "switchboard.sqlite3",
        "OPTIONS": {
            # IMMEDIATE: a transaction that will write takes the lock at once, so that it waits
            # (20 s at most) instead of failing half-way.
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            # FULL: what is committed is on the disk, as are the files of the trail's key. After a
            # loss of power a database that is older than they are would look like one that was cut.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
        },
        # A file as in real use: in memory, threads would share one cache and its table locks.
        "TEST": {"NAME": directory / "test.sqlite3"},
    }


def _postgres(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise ImproperlyConfigured("SWITCHER_DATABASE_URL must begin with postgres://")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
        # A process that freezes or vanishes inside a transaction keeps its locks as long as its
        # connection lasts, and would keep the next worker from taking over.
        "OPTIONS": {"options": "-c idle_in_transaction_session_timeout=10s -c lock_timeout=20s"},
    }
