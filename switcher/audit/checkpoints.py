"""Checkpoints: signed notes over the trail as it is stored, and the keys that sign them.

Nothing is signed that was not read again from the stored entries and found to follow from what
was signed before. What is wrong raises TrailBroken or KeyUnusable; whoever calls gives the alarm.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import connection, transaction

from switcher.audit.archive_files import begins_behind, newest_segment
from switcher.audit.ledger import SERVER, Actor, append, changed, writing
from switcher.audit.ledger_reader import (
    index_row,
    newest_checkpoint,
    newest_entry,
    newest_seq,
    stored_rows,
)
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
from switcher.models import AuditEntry, Checkpoint, Delivery, LedgerRow

MADE = "audit.key-made"
ALARM = "audit.alarm"
# Entries are signed before they are this old, so that with the time to look and to sign
# checkpoints are at most 60 s apart.
SIGN_AFTER = timedelta(seconds=45)
SAY_AGAIN_AFTER = timedelta(days=1)

# Any number that nothing else in this database locks by.
_SIGN_LOCK = 0x5377_6974_6B65


class TrailBroken(SwitcherError):
    """What is stored does not follow from what was signed. Nothing is signed over it."""

    code = "trail-broken"


class KeyUnusable(SwitcherError):
    """The signing key cannot be used."""

    code = "audit-key"


@contextmanager
def _keys_raise_ours() -> Iterator[None]:
    try:
        yield
    except KeyRefused as exc:
        raise KeyUnusable(str(exc)) from exc


# -- When


def is_remembered() -> bool:
    """Whether anything was ever signed, as the key's own file has it: a database may deny it."""
    try:
        return bool(key_files().remembered())
    except KeyRefused:
        return True


def is_due(clock: Clock = system) -> bool:
    """Whether there is something to sign now: a switch has ended, or entries wait for long."""
    size = _size_signed()
    if size > newest_seq():
        return True  # nothing can be: who signs finds out what was done
    if not LedgerRow.objects.filter(seq__gt=size).exists():
        return False
    new = AuditEntry.objects.filter(seq__gt=size)
    if new.exclude(outcome="").exists():
        return True
    oldest = new.order_by("seq").values_list("at", flat=True).first()
    return oldest is None or not is_within(SIGN_AFTER, oldest, clock.now())


def _size_signed() -> int:
    last = newest_checkpoint()
    return last.size if last else 0


# -- Signing


@dataclass(frozen=True, slots=True)
class _Start:
    """From where on entries are read: the tree that was signed, and the hash before the next."""

    checkpoint: Checkpoint | None
    tree: Tree
    prev: bytes


def sign(clock: Clock = system) -> Checkpoint | None:
    """Sign what was appended since the last checkpoint. None: there is nothing, or another process
    has signed meanwhile. Raises TrailBroken, KeyUnusable."""
    while True:
        begin = begins_behind()
        try:
            return _sign(clock)
        except TrailBroken:
            if begins_behind() == begin:
                raise
            # Old entries were moved away while they were read: it is read again.


def _sign(clock: Clock) -> Checkpoint | None:
    if not LedgerRow.objects.exists():
        return None
    with _keys_raise_ours():
        files = key_files()
        _settle_key(files, clock)
        _key_told(files)
        start = _start(files)
        verifier = _read_on(start)
        if start.checkpoint is not None and verifier.size == start.checkpoint.size:
            return None
        made = _store(files, start.checkpoint, verifier.tree, clock)
        if made is not None:
            files.remember(made.note)
    return made


def _start(files: KeyFiles) -> _Start:
    # Read before the database, as others sign meanwhile. It is never newer than that, a loss of
    # power included: a commit is on the disk (SQLite: synchronous=FULL) before the file is written.
    remembered = files.remembered()
    last = newest_checkpoint()
    _check_not_older(remembered, last, files)
    if last is None:
        return _Start(None, Tree(), GENESIS)
    tree = _signed_tree(last, files)
    return _Start(last, tree, _signed_head(tree))


def _check_not_older(remembered: str, last: Checkpoint | None, files: KeyFiles) -> None:
    """The database is not older than what was signed, and was not filled anew."""
    if not remembered:
        return
    try:
        known = read_note(remembered, files.public_keys())
    except BadNote as exc:
        raise KeyRefused(f"{files.last} is not a checkpoint of this key: {exc}.") from exc
    size = last.size if last else 0
    if size < known.size:
        raise TrailBroken(
            f"A checkpoint over {known.size} entries was signed, and the database knows of "
            f"{size or 'none'}: it is older, or was cut."
        )


def _signed_tree(last: Checkpoint, files: KeyFiles) -> Tree:
    """The stored tree, if it is the one that was signed."""
    try:
        tree, told = Tree.from_text(last.tree), read_note(last.note, files.public_keys())
    except ValueError as exc:
        raise TrailBroken(f"The last checkpoint cannot be believed: {exc}.") from exc
    if (told.size, told.root) != (tree.size, tree.root()) or told.size != last.size:
        raise TrailBroken("The last checkpoint is not what was signed.")
    return tree


def _signed_head(tree: Tree) -> bytes:
    """The hash of the last signed entry, if what is stored before it leads to what was signed.

    The smallest peak of the tree ends with that entry: so many entries are read again, on average
    as many as the tree is high.
    """
    if not tree.size:
        return GENESIS
    begin = tree.size - (tree.size & -tree.size)
    segment = newest_segment()
    if segment is None or segment.last <= begin:
        found, wanted, head = Tree(), tree.peaks[-1], GENESIS
    elif segment.damage:
        text = f"What the database keeps of {segment.name} cannot be read: {segment.damage}."
        raise TrailBroken(text)
    else:
        begin, head = segment.last, segment.prev
        found, wanted = segment.tree, tree.root()
    for rows in stored_rows(begin):
        hashes = [entry_hash for seq, _, _, entry_hash in rows if seq <= tree.size]
        found.extend(hashes)
        head = hashes[-1] if hashes else head
        if rows[-1][0] >= tree.size:
            break
    if found.root() != wanted:
        raise TrailBroken(f"The entries up to {tree.size} are not those that were signed.")
    return head


def _read_on(start: _Start) -> Verifier:
    verifier = Verifier(start.tree, start.prev)
    for rows in stored_rows(start.tree.size):
        verifier.add(rows)
    report = verifier.report()
    if not report.intact:
        raise TrailBroken(report.problems[0])
    return verifier


def _store(files: KeyFiles, last: Checkpoint | None, tree: Tree, clock: Clock) -> Checkpoint | None:
    """Sign and keep it, with what is to be delivered, in one transaction."""
    with transaction.atomic():
        _lock()
        newest = newest_checkpoint()
        if (newest.pk if newest else None) != (last.pk if last else None):
            return None  # lost race: another process has signed
        key = _key_told(files)
        told = _told_key()
        if told is None or told.seq > tree.size:
            return None  # changed meanwhile: the new key signs nothing from before its entry
        made = Checkpoint.objects.create(
            size=tree.size,
            note=key.checkpoint(tree.size, tree.root()),
            tree=tree.to_text(),
            at=clock.now(),
        )
        Delivery.objects.bulk_create(
            Delivery(checkpoint=made, sink=sink.name, next_at=made.at) for sink in sinks()
        )
        transaction.on_commit(partial(changed.send_robust, sender="checkpoint"))
    return made


def _lock() -> None:
    """Who signs, and who changes the key, is alone until the transaction ends. On SQLite every
    transaction that writes is."""
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_SIGN_LOCK])


# -- Keys


@dataclass(frozen=True, slots=True)
class ToldKey:
    """The key that the trail itself tells of, and in which entry."""

    seq: int
    text: str


def _told_key() -> ToldKey | None:
    newest = newest_entry(MADE, ROTATED, ARCHIVED)
    if newest is None:
        return None
    seq, body = newest
    try:
        return ToldKey(seq, json.loads(body)["facts"]["new"])
    except UNREADABLE as exc:
        raise TrailBroken(f"Entry {seq} names no key.") from exc


def _key_told(files: KeyFiles) -> SigningKey:
    """The signing key, if it is the one that the trail tells of."""
    try:
        return _key_as_told(files)
    except KeyExchanged:
        pass
    # Lost race: a key is made or changed right now, file by file. Under the lock all of it is done
    # but for the last step, which whoever comes first takes.
    with transaction.atomic():
        _lock()
        _end_change(files, _told_key())
        return _key_as_told(files)


def _key_as_told(files: KeyFiles) -> SigningKey:
    key, told = files.check(), _told_key()
    if told is None or told.text != str(key.public):
        raise KeyExchanged(exchanged(files.private))
    return key


def _end_change(files: KeyFiles, told: ToldKey | None) -> bool:
    """The next key takes its place, if its entry is committed. Only under the lock."""
    coming = files.load_next()
    if coming is None or told is None or str(coming.public) != told.text:
        return False
    files.promote_next()
    return True


def vouch_for_segment(first: int, last: int, sha256: str, root: str) -> dict[str, Any]:
    """What the entry that tells of a segment says of it: signed, so that nobody else can write one
    that is believed. Only in the transaction that appends it, in which no key changes. Raises
    KeyUnusable, TrailBroken."""
    with _keys_raise_ours():
        key = _key_told(key_files())
        return {
            **key.vouch_for_segment(first, last, sha256, root).to_json(),
            "new": str(key.public),
        }


def key_problem() -> str:
    """Why the signing key cannot be used, in a sentence; empty if it can. Before its first need
    there is none, and nothing is wrong with that."""
    files = key_files()
    try:
        if _told_key() is not None or files.public.exists():
            _key_told(files)
    except (KeyRefused, TrailBroken) as exc:
        return str(exc)
    return ""


def _settle_key(files: KeyFiles, clock: Clock) -> None:
    """Make the first key at first need; end a change of key that a crash has cut short."""
    if _told_key() is not None and not files.next.exists():
        return
    with writing():
        _lock()
        told = _told_key()
        if told is None:
            key = files.make()
            append(MADE, SERVER, clock=clock, new=str(key.public))
            return
        if not _end_change(files, told):
            files.drop_next()


def rotate_key(actor: Actor, clock: Clock = system) -> str:
    """A new key takes the old one's place, with an entry that both have signed. Returns the new
    public key. Raises KeyUnusable, TrailBroken.

    Everything before that entry is signed by the old key, everything from it on by the new one.
    """
    sign(clock)
    with _keys_raise_ours():
        files = key_files()
        _settle_key(files, clock)
        with writing():
            _lock()
            old, new = _key_told(files), new_key(files.name)
            files.write_next(new)
            facts: dict[str, Any] = {**old.vouch_for(new).to_json()}
            append(ROTATED, actor, clock=clock, **facts)
        _settle_key(files, clock)
    sign(clock)
    return str(new.public)


# -- Alarms


def raise_alarm(about: str, text: str, clock: Clock = system) -> bool:
    """Write down that something is wrong with the trail or its proofs: once a day for the same
    text, whichever process sees it. Returns whether it was news."""
    with writing():
        _lock()
        said_at = _said_at(text[:500])
        if said_at is not None and is_within(SAY_AGAIN_AFTER, said_at, clock.now()):
            return False
        append(ALARM, SERVER, clock=clock, reason=text[:500], about=about)
    return True


def _said_at(text: str) -> datetime | None:
    """When that was last an alarm, as the entry itself tells it: what stands only in the columns to
    search by keeps nobody silent."""
    newest = newest_entry(ALARM, reason=text)
    row = index_row(newest[1]) if newest is not None else None
    if row is None or (row["kind"], row["reason"]) != (ALARM, text):
        return None
    at: datetime = row["at"]
    return at


def note_checked(result: dict[str, Any], actor: Actor, clock: Clock = system) -> None:
    """Write down what a verification of the whole trail has found."""
    told = ("entries", "last_seq", "root", "checkpoints", "last_checkpoint", "bad_seq", "problems")
    facts = {name: result[name] for name in ("ok", *told)}
    facts["verdicts"] = {name: result[name] for name in ("intact", "anchored", "complete")}
    with writing():
        append("audit.checked", actor, clock=clock, **facts)


def note_check_failed(why: str, actor: Actor, clock: Clock = system) -> None:
    """Write down that the whole trail could not be verified, so that there are no verdicts."""
    with writing():
        append("audit.checked", actor, clock=clock, reason=why[:500], ok=False, error=why[:500])


def note_seals_remade(names: list[str], clock: Clock = system) -> None:
    """Write down that seals of the tables were missing or altered and were made again."""
    with writing():
        append(
            "audit.seal-remade",
            SERVER,
            clock=clock,
            reason="Seals of the database were missing or altered.",
            seals=names,
        )
