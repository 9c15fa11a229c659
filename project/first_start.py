"""Creates what the first start needs: an admin, and a host at the address where Ollama is
expected."""

from __future__ import annotations

import ipaddress
import secrets

from django.contrib.auth import get_user_model
from django.core.exceptions import ImproperlyConfigured

from project.environment import read_environment
from switcher.audit.ledger import SERVER
from switcher.domain.addresses import DEFAULT_PORTS, OLLAMA_PORT, check_address
from switcher.domain.errors import BadRequest
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
    answers. Return its address if it was added. Raises ImproperlyConfigured.
    """
    if Host.objects.exists():
        return ""
    try:
        address = ollama_address(read_environment().ollama_host)
    except BadRequest as exc:
        raise ImproperlyConfigured(f"OLLAMA_HOST: {exc.text}") from None
    config.save_host(Host(name="ollama", base_url=address), SERVER)
    return address


def ollama_address(text: str) -> str:
    """Return the address that Ollama's own clients read from OLLAMA_HOST (its envconfig/config.go).

    Quotes are dropped, scheme, host and port are optional, a path is kept, a port that is none is
    the default one, and a server's wildcard address means this machine. Raises BadRequest.
    """
    text = text.strip().strip("\"'").strip()
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = ("https", "ollama.com:443") if text == "ollama.com" else ("http", text)
    default_port = DEFAULT_PORTS.get(scheme, OLLAMA_PORT) if separator else OLLAMA_PORT
    host_and_port, slash, path = rest.partition("/")
    host, colon, port = host_and_port.rpartition(":")
    if not colon or _is_ip(host_and_port.strip("[]")):
        host, port = host_and_port, ""
    host = host.strip("[]")
    number = int(port) if port.isdecimal() and int(port) < 65536 else default_port
    name = f"[{host}]" if ":" in host else host or "127.0.0.1"
    return check_address(f"{scheme}://{name}:{number}{slash}{path}")


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
