"""What the first start makes: an admin, and a host where Ollama is expected."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from django.contrib.auth import get_user_model

from project.environment import read_environment
from switcher.audit.ledger import SERVER
from switcher.models import Host
from switcher.records import config, people

ADMIN = "admin"


def ensure_admin() -> str:
    """Make the first admin, if there is no superuser yet. Returns the password to print: only
    where it was made up here; one from SWITCHER_ADMIN_PASSWORD is never shown."""
    users = get_user_model()._default_manager
    if users.filter(is_superuser=True).exists():
        return ""
    given = read_environment().admin_password
    password = given or secrets.token_urlsafe(12)
    with people.acting(lambda: SERVER):
        get_user_model().objects.create_superuser(ADMIN, password=password)
    return "" if given else password


def ensure_host() -> str:
    """Add the host at OLLAMA_HOST or 127.0.0.1:11434, if there is none. Whether it answers is a
    matter for the page. Returns its address where it was added."""
    if Host.objects.exists():
        return ""
    address = ollama_address(read_environment().ollama_host)
    config.save_host(Host(name="ollama", base_url=address), SERVER)
    return address


def ollama_address(text: str) -> str:
    """OLLAMA_HOST as Ollama's own clients read it: scheme and port may be left out, and the
    wildcard address of a server means this machine."""
    text = text.strip()
    if "://" not in text:
        text = f"http://{text or '127.0.0.1'}"
    parts = urlsplit(text)
    name = parts.hostname or "127.0.0.1"
    if name in {"0.0.0.0", "::"}:  # noqa: S104 - read, not bound
        name = "127.0.0.1"
    port = parts.port or {"http": 11434, "https": 443}.get(parts.scheme, 11434)
    return f"{parts.scheme}://{f'[{name}]' if ':' in name else name}:{port}"
