"""Creates what the first start needs: an admin, and a host at the address where Ollama is
expected."""

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
    """Create the first admin if there is no superuser. Return the password if it was generated;
    one from SWITCHER_ADMIN_PASSWORD is never shown."""
    users = get_user_model()._default_manager
    if users.filter(is_superuser=True).exists():
        return ""
    given = read_environment().admin_password
    password = given or secrets.token_urlsafe(12)
    with people.acting(lambda: SERVER):
        get_user_model().objects.create_superuser(ADMIN, password=password)
    return "" if given else password


def ensure_host() -> str:
    """Add the host at OLLAMA_HOST or 127.0.0.1:11434 if there is no host, without checking that it
    answers. Return its address if it was added.
    """
    if Host.objects.exists():
        return ""
    address = ollama_address(read_environment().ollama_host)
    config.save_host(Host(name="ollama", base_url=address), SERVER)
    return address


def ollama_address(text: str) -> str:
    """Return the address that Ollama's own clients read from OLLAMA_HOST: scheme and port are
    optional, and a server's wildcard address means this machine."""
    text = text.strip()
    if "://" not in text:
        text = f"http://{text or '127.0.0.1'}"
    parts = urlsplit(text)
    name = parts.hostname or "127.0.0.1"
    if name in {"0.0.0.0", "::"}:  # noqa: S104 - read, not bound
        name = "127.0.0.1"
    port = parts.port or {"http": 11434, "https": 443}.get(parts.scheme, 11434)
    return f"{parts.scheme}://{f'[{name}]' if ':' in name else name}:{port}"
