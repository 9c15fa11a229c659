"""Encrypts the credentials of hosts with a key of the server that is kept in a file, out of reach
of the database's password and backups."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from cryptography.fernet import Fernet, InvalidToken
from django.conf import settings

from switcher.domain.servers import Credentials
from switcher.ollama.errors import CredentialsUnreadable


def seal(credentials: Credentials) -> str:
    """Return credentials encrypted; empty if there are none. Raises CredentialsUnreadable."""
    text = credentials.to_text()
    return Fernet(_key(make=True)).encrypt(text.encode()).decode() if text else ""


def unseal(sealed: str) -> Credentials:
    """Return the credentials again. Raises CredentialsUnreadable."""
    if not sealed:
        return Credentials()
    try:
        text = Fernet(_key()).decrypt(sealed.encode()).decode()
    except (InvalidToken, ValueError):
        raise CredentialsUnreadable(
            f"The host's credentials were encrypted with another key than {_path()}."
        ) from None
    return Credentials.from_text(text)


def _path() -> Path:
    return Path(settings.SWITCHER_HOST_KEY)


def _key(make: bool = False) -> bytes:
    """Return the key, made with the first credentials. It is never made anew beside others."""
    path = _path()
    if make:
        _make(path)
    try:
        if path.stat().st_mode & 0o077:
            raise CredentialsUnreadable(f"{path} can be read by others. Run: chmod 600 {path}")
        return path.read_bytes()
    except OSError as exc:
        raise CredentialsUnreadable(
            f"The key of the hosts' credentials cannot be read: {path}: {exc.strerror}."
        ) from exc


def _make(path: Path) -> None:
    """Make the key if there is none. It appears complete: another process may read it at once."""
    if path.exists():
        return
    # If it cannot be made, reading it says why.
    with suppress(OSError), NamedTemporaryFile("wb", dir=path.parent) as file:  # mode 600
        file.write(Fernet.generate_key())
        file.flush()
        os.fsync(file.fileno())
        os.link(file.name, path)
