"""The settings from the environment (docs/settings.md); all are optional."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key
from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyNetwork, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

PREFIX = "SWITCHER_"
OLLAMA_HOST = "OLLAMA_HOST"  # Ollama's own variable


def _split(text: object) -> object:
    """Split a comma-separated list."""
    return [p.strip() for p in text.split(",") if p.strip()] if isinstance(text, str) else text


_SERVER_NAME = re.compile(r"\*|\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]+\]", re.ASCII)
_SITE = re.compile(r"https?://(\*\.)?([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?", re.ASCII)


def _check_server_names(names: list[str]) -> list[str]:
    """Return names as Django compares them. Those with a scheme, port or path would match none."""
    return [_check_server_name(name.lower()) for name in names]


def _check_server_name(name: str) -> str:
    name = f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name
    if not _SERVER_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no host name: write it without scheme, port and path,"
            " and .example.net for all names below it"
        )
    return name


def _check_sites(origins: list[str]) -> list[str]:
    """Refuse what no browser sends as the origin of a page."""
    for origin in origins:
        if not _SITE.fullmatch(origin.lower()):
            raise ValueError(f"{origin!r} is not an origin such as https://models.example.net")
    return origins


def _check_origins(origins: list[str]) -> list[str]:
    """Refuse what Ollama refuses: more than one `*`, or neither a scheme nor a `*`."""
    for origin in origins:
        if origin == "off":
            continue
        if origin.count("*") > 1 or not ("*" in origin or "://" in origin):
            raise ValueError(f"{origin!r} is not an origin such as https://chat.example.net")
    return origins


def _base_path(text: object) -> object:
    """Return `/a/b` for `a/b/` and the like, and an empty text for the root."""
    parts = [part for part in text.strip().split("/") if part] if isinstance(text, str) else []
    if any(not re.fullmatch(r"[A-Za-z0-9._~-]+", part) or part in {".", ".."} for part in parts):
        raise ValueError(f"{text!r} is not a path such as /switchboard")
    return "".join(f"/{part}" for part in parts)


def _strip(text: object) -> object:
    return text.strip() if isinstance(text, str) else text


def _open_gateway(text: object) -> object:
    """Read `no-proxy` or an on/off word. An on word alone does not say that no proxy runs on this
    machine."""
    word = text.strip().lower() if isinstance(text, str) else text
    if word in {"1", "true", "yes", "on"}:
        return "unconfirmed"
    if word in {"0", "false", "no"}:
        return "off"
    return word


Names = Annotated[list[str], NoDecode, BeforeValidator(_split), AfterValidator(_check_server_names)]
Sites = Annotated[list[str], NoDecode, BeforeValidator(_split), AfterValidator(_check_sites)]
Origins = Annotated[list[str], NoDecode, BeforeValidator(_split), AfterValidator(_check_origins)]
Networks = Annotated[list[IPvAnyNetwork], NoDecode, BeforeValidator(_split)]
BasePath = Annotated[str, BeforeValidator(_base_path)]
Flag = Annotated[bool, BeforeValidator(_strip)]
OpenGateway = Annotated[Literal["off", "unconfirmed", "no-proxy"], BeforeValidator(_open_gateway)]
Count = Annotated[int, Field(ge=1, lt=1_000_000)]
CountOrNever = Annotated[int, Field(ge=0, lt=1_000_000)]


class Environment(BaseSettings):
    """One field for each variable; an empty variable counts as unset."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True)

    data_dir: Path = Path("data")
    admin_password: str = ""
    auditor_password: str = ""
    ollama_host: str = Field(default="", validation_alias=OLLAMA_HOST)
    database_url: str = ""
    secret_key: str = ""
    allowed_hosts: Names = []
    trusted_origins: Sites = []
    base_path: BasePath = ""
    https: Flag = False
    behind_proxy: Flag = False
    trusted_proxies: Networks = []
    login_failures: Count = 10
    login_lockout_minutes: Count = 15
    open_gateway: OpenGateway = "off"
    gateway_origins: Origins = []
    gateway_body_mb: Count = 64
    host_key: Path | None = None
    use_proxy: Flag = False
    audit_key: Path | None = None
    audit_origin: str = "switchboard"
    audit_anchors: str = ""
    audit_syslog: str = ""
    audit_webhook: str = ""
    audit_segments: Path | None = None
    audit_keep_days: CountOrNever = 0
    log_level: str = "INFO"


def read_environment() -> Environment:
    """Return the settings in the current environment. Raises ImproperlyConfigured."""
    try:
        return Environment()
    except ValidationError as exc:
        problems = [f"{_variable(str(e['loc'][0]))}: {e['msg']}." for e in exc.errors()]
        raise ImproperlyConfigured(" ".join(problems)) from None


def _variable(field: str) -> str:
    return field if field == OLLAMA_HOST else f"{PREFIX}{field.upper()}"


def gateway_origins(own: list[str]) -> list[str]:
    """Return the origins of the setting with those that Ollama always allows; none for `off`."""
    if own == ["off"]:
        return []
    names = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104 - a name, not an address to bind
    local = [f"{s}://{n}{port}" for n in names for s in ("http", "https") for port in ("", ":*")]
    schemes = ("app", "file", "tauri", "vscode-webview", "vscode-file")
    return [*own, *local, *(f"{scheme}://*" for scheme in schemes)]


def variables() -> list[str]:
    """Return the name of every variable that is read."""
    fields = Environment.model_fields.items()
    return [_variable(str(field.validation_alias or name)) for name, field in fields]


def package_dir(name: str) -> Path:
    """Return the directory of a package, without importing it."""
    found = find_spec(name)
    if found is None or found.origin is None:
        raise ImproperlyConfigured(f"The package {name} is not installed.")
    return Path(found.origin).parent


def create_data_dir(path: Path) -> Path:
    """Return the absolute path of the data directory, created if missing. Only its owner can read
    it and the files created in it, as the database holds sessions and password hashes. Raises
    ImproperlyConfigured.
    """
    os.umask(0o077)
    path = path.resolve()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        text = f"SWITCHER_DATA_DIR: {path} cannot be created: {exc.strerror}."
        raise ImproperlyConfigured(text) from None
    return path


def stored_secret_key(directory: Path) -> str:
    """Return the secret key stored in this directory, generated the first time."""
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


def sqlite(directory: Path) -> dict[str, Any]:
    """Return the database settings for a file in this directory."""
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": directory / "switchboard.sqlite3",
        "OPTIONS": {
            # IMMEDIATE: a transaction that will write takes the lock at once, so that it waits
            # (20 s at most) instead of failing half-way.
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            # FULL: commits are on disk, as are the files of the trail's key. After a
            # power loss, a database older than those files would look as if it had been truncated.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
        },
        # A file as in production: in memory, threads would share one cache and its table locks.
        "TEST": {"NAME": directory / "test.sqlite3"},
    }


def postgres(url: str) -> dict[str, Any]:
    """Return the database settings for `postgres://user:password@host:5432/name?sslmode=…`.

    libpq's own parser reads it, so it takes each of its parameters, and several hosts. Raises
    ImproperlyConfigured, which repeats nothing of the URL, as it holds a password.
    """
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError:
        text = "SWITCHER_DATABASE_URL needs a driver: install switchboard-ollama[postgres]."
        raise ImproperlyConfigured(text) from None
    if not url.startswith(("postgres://", "postgresql://")):
        raise ImproperlyConfigured("SWITCHER_DATABASE_URL must begin with postgres://")
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except ProgrammingError as exc:
        why = str(exc).strip() if str(exc).startswith("invalid URI query parameter") else ""
        why = why or "percent-encode the special characters of its user and password"
        raise ImproperlyConfigured(f"SWITCHER_DATABASE_URL cannot be read: {why}.") from None
    # A process that freezes or vanishes inside a transaction keeps its locks as long as its
    # connection lasts, and would keep the next worker from taking over.
    options = "-c idle_in_transaction_session_timeout=10s -c lock_timeout=20s"
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": given.pop("dbname", ""),
        "USER": given.pop("user", ""),
        "PASSWORD": given.pop("password", ""),
        "HOST": given.pop("host", ""),
        "PORT": given.pop("port", ""),
        "OPTIONS": given | {"options": f"{options} {given.get('options', '')}".strip()},
    }
