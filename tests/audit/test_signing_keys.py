"""The key's file: made once, for its owner alone, and not believed if it was exchanged."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from switcher.audit.signing_keys import KeyFiles, KeyMissing, KeyRefused, new_key
from switcher.audit.verifier.switchboard_verify import PublicKey, read_note
from tests.until import PATIENCE_S


@pytest.fixture
def files(tmp_path: Path) -> KeyFiles:
    return KeyFiles(tmp_path / "audit-key.pem", tmp_path / "audit-keys.pub", "switchboard")


def test_a_key_is_made_for_its_owner_alone_and_its_public_side_for_all(files: KeyFiles) -> None:
    key = files.make()
    assert stat.S_IMODE(files.private.stat().st_mode) == 0o600
    assert files.private.read_text().startswith("-----BEGIN PRIVATE KEY-----")
    assert PublicKey.from_text(files.public.read_text()) == key.public
    assert files.check().public == key.public
    assert sorted(p.name for p in files.private.parent.iterdir()) == [
        "audit-key.pem",
        "audit-keys.pub",
    ]


def test_a_key_is_made_once_if_several_processes_begin_together(files: KeyFiles) -> None:
    made: list[PublicKey] = []
    gate = threading.Barrier(8)

    def begin() -> None:
        gate.wait(PATIENCE_S)
        files._write_key(files.private, new_key(files.name))
        made.append(files.load().public)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(made) == 8
    assert set(made) == {files.load().public}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_key_that_others_can_read_is_refused_with_advice(files: KeyFiles, mode: int) -> None:
    files.make()
    files.private.chmod(mode)
    with pytest.raises(KeyRefused, match=f"Run: chmod 600 {files.private}"):
        files.load()


def test_a_key_of_another_user_is_refused_with_advice(
    files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.make()
    monkeypatch.setattr(os, "geteuid", lambda: files.private.stat().st_uid + 1)
    with pytest.raises(KeyRefused, match="belongs to another user. Run: chown"):
        files.load()


def test_a_link_to_a_key_is_refused(files: KeyFiles, tmp_path: Path) -> None:
    files.make()
    files.private.rename(tmp_path / "elsewhere")
    files.private.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyRefused, match="cannot be read"):
        files.load()


def test_a_file_that_is_no_key_is_refused(files: KeyFiles) -> None:
    rsa = generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    for raw in (b"", b"nothing", rsa):
        files.private.write_bytes(raw)
        files.private.chmod(0o600)
        with pytest.raises(KeyRefused, match="holds no Ed25519 key"):
            files.load()


def test_a_missing_key_is_not_made_again(files: KeyFiles) -> None:
    files.make()
    files.private.unlink()
    with pytest.raises(KeyMissing, match="Restore it from your copy"):
        files.make()
    assert not files.private.exists()


def test_an_exchanged_key_is_refused(files: KeyFiles) -> None:
    files.make()
    files.private.unlink()
    files._write_key(files.private, new_key(files.name))
    with pytest.raises(KeyRefused, match="exchanged without a rotation"):
        files.check()


def test_the_next_key_replaces_the_first_and_both_are_published(files: KeyFiles) -> None:
    first, second = files.make(), new_key(files.name)
    files.write_next(second)
    assert files.check().public == first.public
    files.promote_next()
    assert files.check().public == second.public
    assert files.public_keys() == [first.public, second.public]
    assert files.root() == [first.public]
    assert files.load_next() is None


def test_a_promotion_that_a_crash_cut_short_is_repeated(
    files: KeyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.make()
    second = new_key(files.name)
    files.write_next(second)
    real = os.replace

    def dies(source: Path, target: Path) -> None:
        if target == files.private:
            raise InterruptedError
        real(source, target)

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(InterruptedError):
        files.promote_next()
    monkeypatch.undo()
    files.promote_next()
    assert files.check().public == second.public
    assert len(files.public_keys()) == 2


def test_a_checkpoint_is_signed_and_does_not_show_the_key(files: KeyFiles) -> None:
    key = files.make()
    read = read_note(key.checkpoint(7, b"\7" * 32), [key.public])
    assert (read.origin, read.size, read.root) == ("switchboard", 7, b"\7" * 32)
    secret = key.private.private_bytes_raw()
    assert secret.hex() not in repr(key)
    assert repr(secret)[2:-1] not in repr(key)


def test_the_last_checkpoint_is_remembered(files: KeyFiles) -> None:
    assert files.remembered() == ""
    files.remember("a note — signed\n")
    assert files.remembered() == "a note — signed\n"
