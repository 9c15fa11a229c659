"""The key that signs checkpoints: a file outside the database, whose password says nothing of it.

    audit-key.pem     the private key, Ed25519, PKCS8, mode 600
    audit-keys.pub    the public keys of all generations, one a line, the first one first; it is
                      what an auditor is given
    audit-key.last    the newest checkpoint that was signed with it, to see that the database is
                      not older than what was signed
    audit-key.checked when the whole trail was last verified
While a key changes, the next one lies in `audit-key.next` until its entry is committed.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from switcher.audit.verifier.switchboard_verify import (
    Archived,
    PublicKey,
    Rotation,
    checkpoint_text,
    read_keys,
    signature_line,
)

MODE = 0o600


class KeyRefused(Exception):
    """The key cannot be used; the text says why, and what to do."""


class KeyMissing(KeyRefused):
    """There is no key where it should be."""


class KeyExchanged(KeyRefused):
    """The key is not the one that it should be, or it is being changed at this moment."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key with its name. It never shows itself: not in a log, not in a traceback."""

    name: str
    private: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.name, self.private.public_key().public_bytes_raw())

    def sign(self, text: str) -> bytes:
        return self.private.sign(text.encode())

    def checkpoint(self, size: int, root: bytes) -> str:
        """The signed note over the first `size` entries."""
        text = checkpoint_text(self.name, size, root)
        return f"{text}\n{signature_line(self.public, self.sign(text))}"

    def vouch_for(self, new: SigningKey) -> Rotation:
        """The statement, signed by both, that `new` takes this one's place."""
        text = Rotation.text(self.public, new.public)
        return Rotation(self.public, new.public, self.sign(text), new.sign(text))

    def vouch_for_archive(self, first: int, last: int, sha256: str, root: str) -> Archived:
        """Return the signed statement that entries were moved to an archive file."""
        text = Archived.text(first, last, sha256, root)
        return Archived(first, last, sha256, root, self.sign(text))


def new_key(name: str) -> SigningKey:
    return SigningKey(name, Ed25519PrivateKey.generate())


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """Where the keys lie. `name` is the one under which checkpoints are signed."""

    private: Path
    public: Path
    name: str

    @property
    def next(self) -> Path:
        return self.private.with_suffix(".next")

    @property
    def last(self) -> Path:
        return self.private.with_suffix(".last")

    @property
    def checked(self) -> Path:
        return self.private.with_suffix(".checked")

    def load(self) -> SigningKey:
        """The signing key. Raises KeyMissing, KeyRefused."""
        return self._read(self.private)

    def load_next(self) -> SigningKey | None:
        """The key of a change that has not come to its end."""
        try:
            return self._read(self.next)
        except KeyMissing:
            return None

    def _read(self, path: Path) -> SigningKey:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise KeyMissing(
                f"The signing key {path} is missing. Put it back from its copy."
            ) from None
        except OSError as exc:
            raise KeyRefused(f"The signing key {path} cannot be read: {exc.strerror}.") from None
        with os.fdopen(fd, "rb") as file:
            _check_owner(path, os.fstat(fd))
            raw = file.read(10_000)
        try:
            key = load_pem_private_key(raw, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise KeyRefused(
                f"{path} holds no Ed25519 key in PEM without a password. Put it back from its copy."
            )
        return SigningKey(self.name, key)

    def make(self) -> SigningKey:
        """The first key: made, unless it was made already. Raises KeyMissing, KeyRefused."""
        if self.public.exists():
            return self.check()
        if not self.private.exists():
            self._write_key(self.private, new_key(self.name))
        key = self.load()
        self._publish(key.public)
        return key

    def write_next(self, key: SigningKey) -> None:
        """Keep the next key beside the one in use, until its entry is committed."""
        self.drop_next()
        self._write_key(self.next, key)

    def drop_next(self) -> None:
        self.next.unlink(missing_ok=True)

    def promote_next(self) -> None:
        """The next key takes the place of the one in use. May be done again after a crash."""
        key = self._read(self.next)
        self._publish(key.public)
        os.replace(self.next, self.private)
        sync_folder(self.private.parent)

    def _write_key(self, path: Path, key: SigningKey) -> None:
        """All of it or nothing, and never over a key that is there."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        raw = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        fresh = path.with_suffix(f".{os.getpid()}-{os.urandom(4).hex()}")
        try:
            _write(fresh, raw, os.O_EXCL, MODE)
            os.link(fresh, path)
        except FileExistsError:
            pass  # lost race: another process has made it
        except OSError as exc:
            raise KeyRefused(f"{path} cannot be written: {exc.strerror}.") from None
        finally:
            fresh.unlink(missing_ok=True)
        sync_folder(path.parent)

    def _publish(self, key: PublicKey) -> None:
        """Append to the public keys, unless it stands there already."""
        known = self.public_keys()
        if key not in known:
            text = "".join(f"{each}\n" for each in [*known, key])
            _replace(self.public, text)

    def public_keys(self) -> list[PublicKey]:
        """All generations, oldest first. Raises KeyRefused."""
        try:
            text = self.public.read_text(encoding="utf-8")
            return [PublicKey.from_text(line) for line in text.splitlines() if line.strip()]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as exc:
            raise KeyRefused(f"{self.public} cannot be read: {exc}.") from None

    def root(self) -> list[PublicKey]:
        """The key that verifying begins with, or none. Raises KeyRefused."""
        known = self.public_keys()
        return [read_keys(str(key) for key in known)] if known else []

    def check(self) -> SigningKey:
        """The signing key, if it is the newest that the file of public keys tells of.

        Raises KeyMissing, KeyExchanged, KeyRefused.
        """
        key, known = self.load(), self.public_keys()
        if not known or known[-1] != key.public:
            raise KeyExchanged(exchanged(self.private))
        return key

    def remember(self, note: str) -> None:
        """Keep the newest checkpoint outside of the database, too."""
        _replace(self.last, note)

    def remembered(self) -> str:
        """The newest checkpoint that this key's machine has signed, or nothing."""
        return _read_text(self.last)

    def remember_check(self, at: str) -> None:
        """Keep when the trail was verified outside of the database, too: who may write only there
        is not to put off the next time."""
        _replace(self.checked, at)

    def remembered_check(self) -> str:
        """When this key's machine last verified the whole trail, or nothing."""
        return _read_text(self.checked)


def exchanged(path: Path) -> str:
    """What is said of a key that nobody has vouched for."""
    return (
        f"{path} is not the key that the trail tells of: it was exchanged without a rotation. "
        "Nothing is signed. Put the key back from its copy; to change it, run "
        "manage.py audit rotate-key."
    )


def _check_owner(path: Path, at: os.stat_result) -> None:
    if not stat.S_ISREG(at.st_mode):
        raise KeyRefused(f"{path} is not a file.")
    if at.st_uid != os.geteuid():
        raise KeyRefused(
            f"{path} belongs to another user. Run: chown {os.geteuid()} {path}",
        )
    if stat.S_IMODE(at.st_mode) & 0o077:
        raise KeyRefused(f"{path} can be read by others. Run: chmod 600 {path}")


def _read_text(path: Path) -> str:
    """What a file says; nothing where it is not there. Raises KeyRefused."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as exc:
        raise KeyRefused(f"{path} cannot be read: {exc}.") from None


def _replace(path: Path, text: str) -> None:
    """Write a file as a whole: who reads it sees the old one or the new one."""
    fresh = path.with_suffix(f"{path.suffix}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        _write(fresh, text.encode(), os.O_EXCL, 0o644)
        os.replace(fresh, path)
    except OSError as exc:
        fresh.unlink(missing_ok=True)
        raise KeyRefused(f"{path} cannot be written: {exc.strerror}.") from None
    sync_folder(path.parent)


def _write(path: Path, raw: bytes, flags: int, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | flags, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(fd)


def sync_folder(directory: Path) -> None:
    """A new name lasts through a loss of power once its directory is written."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
