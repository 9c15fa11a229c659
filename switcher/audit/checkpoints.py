"""Signs checkpoints over the stored trail, and rotates the key that signs them.

Before anything is signed, the stored entries are read again and checked: they must follow from what
was signed before. Otherwise TrailBroken or KeyRefused is raised, and the caller raises the alarm.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from django.db import connection, transaction

from switcher.audit.archive_files import end_of, last_archived, newest_archive_file
from switcher.audit.ledger import SERVER, Actor, append, changed, writing
from switcher.audit.ledger_reader import newest_checkpoint, newest_entry, newest_seq, stored_rows
from switcher.audit.paths import key_files, sinks
from switcher.audit.signing_keys import (
    KeyExchanged,
    KeyFiles,
    KeyRefused,
    SigningKey,
    exchanged,
    new_key,
)
from switcher.audit.verifier.switchboard_verify import (
    ARCHIVED,
    GENESIS,
    ROTATED,
    UNREADABLE,
    BadNote,
    Tree,
    Verifier,
    read_note,
)
from switcher.domain.clock import Clock, is_within, system
from switcher.domain.errors import SwitcherError
from switcher.models import (
    ArchiveFile,
    AuditEntry,
    Checkpoint,
    CheckpointDelivery,
    LedgerRow,
)

KEY_MADE = "audit.key-made"
# Entries are signed before they are this old. With the time to notice and to sign, checkpoints are
# at most 60 s apart.
SIGN_AFTER = timedelta(seconds=45)

# Any lock number that nothing else in this database uses.
_SIGN_LOCK = 0x5377_6974_6B65


class TrailBroken(SwitcherError):
    """The stored entries do not follow from what was signed, so nothing more is signed."""

    code = "trail-broken"


# -- When


def is_remembered() -> bool:
    """Return whether anything was ever signed, according to the file next to the key: the database
    could have been emptied."""
    try:
        return bool(key_files().remembered())
    except KeyRefused:
        return True


def is_due(clock: Clock = system) -> bool:
    """Return whether to sign now: a switch has ended, or entries have waited long enough."""
    last = newest_checkpoint()
    size = last.size if last is not None else 0
    if size > newest_seq():
        return True  # the trail was cut: signing finds that out
    if not LedgerRow.objects.filter(seq__gt=size).exists():
        return False
    unsigned = AuditEntry.objects.filter(seq__gt=size)
    if unsigned.exclude(outcome="").exists():
        return True
    oldest = unsigned.order_by("seq").values_list("at", flat=True).first()
    return oldest is None or not is_within(SIGN_AFTER, oldest, clock.now())


# -- Signing


def sign(clock: Clock = system) -> Checkpoint | None:
    """Sign the entries since the last checkpoint; return None if there are none, or if another
    process has signed them meanwhile. Raises TrailBroken, KeyRefused, TrailUnreadable.
    """
    while True:
        archived = last_archived()
        try:
            return _sign(clock)
        except TrailBroken:
            if last_archived() == archived:
                raise
            # Entries were archived while they were read: read again.


def _sign(clock: Clock) -> Checkpoint | None:
    if not LedgerRow.objects.exists():
        return None
    files = key_files()
    _prepare_key(files, clock)
    _current_key(files)
    last, tree = _read(files)
    if last is not None and tree.size == last.size:
        return None
    made = _store(files, last, tree, clock)
    if made is not None:
        files.remember(made.note)
    return made


def _read(files: KeyFiles) -> tuple[Checkpoint | None, Tree]:
    """Return the last checkpoint and the tree over all entries. Raises TrailBroken if the entries
    do not follow from what was signed.
    """
    # The file is read before the database, as other processes sign meanwhile. It is never newer,
    # even after a loss of power: the commit is on the disk (SQLite: synchronous=FULL) before the
    # file is written.
    remembered = files.remembered()
    last = newest_checkpoint()
    _check_not_older(remembered, last, files)
    signed = _signed_tree(last, files) if last is not None else Tree()
    verifier = Verifier(signed, _signed_head(signed))
    for rows in stored_rows(signed.size):
        verifier.add(rows)
    report = verifier.report()
    if not report.intact:
        raise TrailBroken(report.problems[0])
    return last, verifier.tree


def _check_not_older(remembered: str, last: Checkpoint | None, files: KeyFiles) -> None:
    """Check that the database is not older than what was signed, and has not been emptied."""
    if not remembered:
        return
    try:
        known = read_note(remembered, files.public_keys())
    except BadNote as exc:
        raise KeyRefused(f"{files.last} is not a checkpoint of this key: {exc}.") from exc
    size = last.size if last else 0
    if size < known.size:
        raise TrailBroken(
            f"A checkpoint over {known.size} entries was signed, but the newest in the database "
            f"covers {size}: the database is older, or was cut."
        )


def _signed_tree(last: Checkpoint, files: KeyFiles) -> Tree:
    """Return the stored tree, if it is the one that was signed."""
    try:
        tree, note = Tree.from_text(last.tree), read_note(last.note, files.public_keys())
    except ValueError as exc:
        raise TrailBroken(f"The last checkpoint cannot be believed: {exc}.") from exc
    if (note.size, note.root) != (tree.size, tree.root()) or note.size != last.size:
        raise TrailBroken("The last checkpoint is not what was signed.")
    return tree


def _signed_head(tree: Tree) -> bytes:
    """Return the hash of the last signed entry, if the entries before it are those that were
    signed.

    The smallest peak of the tree ends with that entry, so only the entries under that peak are read
    again: on average as many as the tree has levels.
    """
    if not tree.size:
        return GENESIS
    begin = tree.size - (tree.size & -tree.size)
    archived = newest_archive_file()
    if archived is None or archived.last <= begin:
        found, expected, head = Tree(), tree.peaks[-1], GENESIS
    else:
        found, head = end_of(archived)
        begin, expected = archived.last, tree.root()
    for rows in stored_rows(begin):
        hashes = [entry_hash for seq, _, _, entry_hash in rows if seq <= tree.size]
        found.extend(hashes)
        head = hashes[-1] if hashes else head
        if rows[-1][0] >= tree.size:
            break
    if found.root() != expected:
        raise TrailBroken(f"The entries up to {tree.size} are not those that were signed.")
    return head


def _store(files: KeyFiles, last: Checkpoint | None, tree: Tree, clock: Clock) -> Checkpoint | None:
    """Sign and store a checkpoint with its deliveries, in one transaction."""
    with transaction.atomic():
        _lock()
        newest = newest_checkpoint()
        if (newest.pk if newest else None) != (last.pk if last else None):
            return None  # Lost race: another process has signed.
        key, recorded = _current_key(files), _recorded_key()
        if recorded is None or recorded.seq > tree.size:
            return None  # Changed meanwhile: a new key signs nothing older than its entry.
        made = Checkpoint.objects.create(
            size=tree.size,
            note=key.checkpoint(tree.size, tree.root()),
            tree=tree.to_text(),
            at=clock.now(),
        )
        CheckpointDelivery.objects.bulk_create(
            CheckpointDelivery(checkpoint=made, sink=sink.name, next_at=made.at) for sink in sinks()
        )
        transaction.on_commit(partial(changed.send_robust, sender="checkpoint"))
    return made


def _lock() -> None:
    """Keep other processes from signing or changing the key until the transaction ends. SQLite
    allows only one writing transaction anyway.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_SIGN_LOCK])


# -- Keys


@dataclass(frozen=True, slots=True)
class _RecordedKey:
    """The public key that an entry names, and the number of that entry."""

    seq: int
    text: str


def _recorded_key() -> _RecordedKey | None:
    """Return the key that the trail names last."""
    newest = newest_entry(KEY_MADE, ROTATED, ARCHIVED)
    if newest is None:
        return None
    seq, body = newest
    try:
        return _RecordedKey(seq, json.loads(body)["facts"]["new"])
    except UNREADABLE as exc:
        raise TrailBroken(f"Entry {seq} names no key.") from exc


def _current_key(files: KeyFiles) -> SigningKey:
    """Return the signing key, if it is the one that the trail names."""
    try:
        return _recorded_key_of(files)
    except KeyExchanged:
        pass
    # Lost race: a key is being made or changed, file by file. Under the lock only its last step can
    # be missing, and the first process to come along takes it.
    with transaction.atomic():
        _lock()
        _finish_rotation(files, _recorded_key())
        return _recorded_key_of(files)


def _recorded_key_of(files: KeyFiles) -> SigningKey:
    key, recorded = files.check(), _recorded_key()
    if recorded is None or recorded.text != str(key.public):
        raise KeyExchanged(exchanged(files.private))
    return key


def _finish_rotation(files: KeyFiles, recorded: _RecordedKey | None) -> bool:
    """Put the next key in place, if its entry is committed. Only under the lock."""
    coming = files.load_next()
    if coming is None or recorded is None or str(coming.public) != recorded.text:
        return False
    files.promote_next()
    return True


def _prepare_key(files: KeyFiles, clock: Clock) -> None:
    """Make the first key when it is needed; finish a rotation that a crash interrupted."""
    if _recorded_key() is not None and not files.next.exists():
        return
    with writing():
        _lock()
        recorded = _recorded_key()
        if recorded is None:
            key = files.make()
            append(KEY_MADE, SERVER, clock=clock, new=str(key.public))
        elif not _finish_rotation(files, recorded):
            files.drop_next()


def vouch_for_archive(file: ArchiveFile) -> dict[str, Any]:
    """Return the signed facts of the entry about an archive file. They include the key: the entry
    that introduced it may be among those that leave the database.

    Call it only in the transaction that appends the entry, during which no key changes. Raises
    KeyRefused, TrailBroken.
    """
    key = _current_key(key_files())
    root = Tree.from_text(file.tree).root().hex()
    archived = key.vouch_for_archive(file.first, file.last, file.sha256, root)
    return {**archived.to_json(), "new": str(key.public)}


def key_problem() -> str:
    """Return why the signing key cannot be used; empty if it can, or if none was needed yet."""
    files = key_files()
    try:
        if _recorded_key() is not None or files.public.exists():
            _current_key(files)
    except (KeyRefused, TrailBroken) as exc:
        return str(exc)
    return ""


def rotate_key(actor: Actor, clock: Clock = system) -> str:
    """Replace the signing key, with an entry that both keys have signed, and return the new public
    key. Raises KeyRefused, TrailBroken.

    The old key signs everything before that entry, the new one everything from it on.
    """
    sign(clock)
    files = key_files()
    _prepare_key(files, clock)
    with writing():
        _lock()
        old, new = _current_key(files), new_key(files.name)
        files.write_next(new)
        facts: dict[str, Any] = {**old.vouch_for(new).to_json()}
        append(ROTATED, actor, clock=clock, **facts)
    _prepare_key(files, clock)
    sign(clock)
    return str(new.public)
