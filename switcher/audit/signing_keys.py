"""The key that signs checkpoints: in files, out of reach of the database's password.

audit-key.pem      the private key, Ed25519, PKCS8, mode 600
audit-keys.pub     the public keys of all generations, one a line, the oldest first: what an
                   auditor is given
audit-key.last     the newest checkpoint that was signed, which shows if the database is older
audit-key.checked  when the whole trail was last verified
audit-key.next     the next key, until the entry of its rotation is committed
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
    signature_line,
)
from switcher.domain.errors import SwitcherError

PRIVATE_MODE, PUBLIC_MODE = 0o600, 0o644


class KeyRefused(SwitcherError):
    """The key cannot be used; the text says why and what to do."""

    code = "audit-key"


class KeyMissing(KeyRefused):
    """The key file is missing."""


class KeyExchanged(KeyRefused):
    """The key is not the expected one, or it is being changed at this moment."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key with its name. It must appear in no log and no traceback."""

    name: str
    private: Ed25519PrivateKey

    @property
    def public(self) -> PublicKey:
        return PublicKey(self.name, self.private.public_key().public_bytes_raw())

    def sign(self, text: str) -> bytes:
        return self.private.sign(text.encode())

    def checkpoint(self, size: int, root: bytes) -> str:
        """Return the signed note over the first `size` entries."""
        text = checkpoint_text(self.name, size, root)
        return f"{text}\n{signature_line(self.public, self.sign(text))}"

    def vouch_for(self, new: SigningKey) -> Rotation:
        """Return the statement, signed by both keys, that `new` replaces this one."""
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
    """The files of a signing key. `name` is the name in its checkpoints."""

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

    # The private key

    def load(self) -> SigningKey:
        """Return the signing key. Raises KeyMissing, KeyRefused."""
        return self._read(self.private)

    def check(self) -> SigningKey:
        """Return the signing key, if it is the newest of the public keys. Raises KeyMissing,
        KeyExchanged, KeyRefused."""
        key, known = self.load(), self.public_keys()
        if not known or known[-1] != key.public:
            raise KeyExchanged(exchanged(self.private))
        return key

    def make(self) -> SigningKey:
        """Make the first key, unless it exists, and return it. Raises KeyMissing, KeyRefused."""
        if self.public.exists():
            return self.check()
        if not self.private.exists():
            self._write_key(self.private, new_key(self.name))
        key = self.load()
        self._publish(key.public)
        return key

    def load_next(self) -> SigningKey | None:
        """Return the key of a rotation that is not finished."""
        try:
            return self._read(self.next)
        except KeyMissing:
            return None

    def write_next(self, key: SigningKey) -> None:
        """Store the next key until its entry is committed."""
        self.drop_next()
        self._write_key(self.next, key)

    def drop_next(self) -> None:
        self.next.unlink(missing_ok=True)

    def promote_next(self) -> None:
        """Put the next key in the place of the current one. Can be repeated after a crash."""
        key = self._read(self.next)
        self._publish(key.public)
        os.replace(self.next, self.private)
        sync_folder(self.private.parent)

    def _read(self, path: Path) -> SigningKey:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            raise KeyMissing(
                f"The signing key {path} is missing. Restore it from your copy."
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
                f"{path} holds no Ed25519 key in PEM without a password. Restore it from your copy."
            )
        return SigningKey(self.name, key)

    def _write_key(self, path: Path, key: SigningKey) -> None:
        """Write a key completely or not at all, and never over another."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        raw = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        draft = _draft_of(path)
        try:
            _write(draft, raw, PRIVATE_MODE)
            os.link(draft, path)
        except FileExistsError:
            pass  # Lost race: another process has made it.
        except OSError as exc:
            raise KeyRefused(f"{path} cannot be written: {exc.strerror}.") from None
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(path.parent)

    # The public keys

    def public_keys(self) -> list[PublicKey]:
        """Return the keys of all generations, oldest first. Raises KeyRefused."""
        try:
            lines = _read_text(self.public).splitlines()
            return [PublicKey.from_text(line) for line in lines if line.strip()]
        except ValueError as exc:
            raise KeyRefused(f"{self.public} cannot be read: {exc}.") from None

    def root(self) -> list[PublicKey]:
        """Return the key that verifying begins with, as a list; an empty one if there is no key.
        Raises KeyRefused."""
        return self.public_keys()[:1]

    def _publish(self, key: PublicKey) -> None:
        """Append a key to the public keys, unless it is among them."""
        known = self.public_keys()
        if key not in known:
            _replace(self.public, "".join(f"{each}\n" for each in [*known, key]))

    # Kept outside the database, where its password cannot change it

    def remember(self, note: str) -> None:
        """Store the newest checkpoint."""
        _replace(self.last, note)

    def remembered(self) -> str:
        """Return the newest checkpoint that this machine has signed; empty if there is none."""
        return _read_text(self.last)

    def remember_check(self, at: str) -> None:
        """Store when the whole trail was verified."""
        _replace(self.checked, at)

    def remembered_check(self) -> str:
        """Return when this machine last verified the whole trail; empty if it never did."""
        return _read_text(self.checked)


def exchanged(path: Path) -> str:
    """Return the message about a key that no other key vouches for."""
    return (
        f"{path} is not the key that the trail names: it was exchanged without a rotation. "
        "Nothing is signed. Restore the key from your copy; to change it, run "
        "manage.py audit rotate-key."
    )


def _check_owner(path: Path, file: os.stat_result) -> None:
    if not stat.S_ISREG(file.st_mode):
        raise KeyRefused(f"{path} is not a file.")
    if file.st_uid != os.geteuid():
        raise KeyRefused(f"{path} belongs to another user. Run: chown {os.geteuid()} {path}")
    if stat.S_IMODE(file.st_mode) & 0o077:
        raise KeyRefused(f"{path} can be read by others. Run: chmod 600 {path}")


def _read_text(path: Path) -> str:
    """Return the text of a file; empty if it does not exist. Raises KeyRefused."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as exc:
        raise KeyRefused(f"{path} cannot be read: {exc}.") from None


def _replace(path: Path, text: str) -> None:
    """Replace a file so that every reader sees either the old text or the new one."""
    draft = _draft_of(path)
    try:
        _write(draft, text.encode(), PUBLIC_MODE)
        os.replace(draft, path)
    except OSError as exc:
        draft.unlink(missing_ok=True)
        raise KeyRefused(f"{path} cannot be written: {exc.strerror}.") from None
    sync_folder(path.parent)


def _draft_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}")


def _write(path: Path, raw: bytes, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(fd)


def sync_folder(directory: Path) -> None:
    """Flush a directory, so that a new name in it survives a loss of power."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
