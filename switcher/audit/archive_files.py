"""The sealed files that old entries were moved to."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from django.db import connections
from django.db.models import F, QuerySet

from switcher.audit.ledger_reader import BEFORE_ALL, MAX_SEQ
from switcher.audit.paths import segment_folder, segment_name
from switcher.audit.verifier.switchboard_verify import UNREADABLE, Rotation, Tree
from switcher.domain.clock import read_moment
from switcher.models import Segment

T = TypeVar("T")

# What stands for a moment that cannot be read.
NEVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """A segment: where its entries lie, and what those behind it are verified from."""

    first: int
    last: int
    last_at: datetime
    size: int
    sha256: str
    prev: bytes
    tree: Tree
    rotations: tuple[dict[str, str], ...]
    entry: int
    at: datetime
    damage: str = ""  # what of the row cannot be read, and has an empty value here

    @property
    def name(self) -> str:
        """Of the file; what the database has as its name is read by nobody, as it may be a path."""
        return segment_name(self.first, self.last)

    @property
    def path(self) -> Path:
        return segment_folder() / self.name

    @property
    def is_there(self) -> bool:
        return self.bytes_there() is not None

    def bytes_there(self) -> int | None:
        """How many bytes the file has; None where there is none, or something else than a file."""
        try:
            found = self.path.lstat()
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def open(self) -> BinaryIO:
        """The file, for reading. Raises OSError, also where it is a link."""
        return open_regular(self.path)

    @property
    def count(self) -> int:
        return self.last - self.first + 1

    def changes_of_key(self) -> list[Rotation]:
        return [Rotation.from_json(row) for row in self.rotations]


def open_regular(path: Path) -> BinaryIO:
    """A file for reading. Raises OSError where it is a link, a pipe, a folder or a device."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return os.fdopen(fd, "rb")


def segments(using: str = "default") -> tuple[ArchiveFile, ...]:
    """All of them, the oldest first; those that somebody has damaged, too."""
    return tuple(_read(pk, using) for pk in _pks(Segment.objects.using(using).order_by("last")))


def newest_segment(using: str = "default") -> ArchiveFile | None:
    """The one behind which the entries in the database begin."""
    return _first(_numbered(using).order_by("-last"), using)


def segment_of(seq: int) -> ArchiveFile | None:
    """The one in which this entry lies."""
    return _first(_numbered().filter(first__lte=seq, last__gte=seq))


def segment_at(moment: datetime) -> ArchiveFile | None:
    """The one that holds the entries of a moment."""
    return _first(_numbered().filter(last_at__gt=moment).order_by("last"))


def begins_behind(using: str = "default") -> int:
    """The number behind which stored entries are read. Where no segment was made, no number may
    be before the first, so all are read."""
    newest = newest_segment(using)
    return newest.last if newest is not None else BEFORE_ALL


def last_moved() -> int:
    """The number of the last entry that lies in a segment; 0 where none does."""
    return max(0, begins_behind())


def _numbered(using: str = "default") -> QuerySet[Segment]:
    """Those with numbers: SQLite, which keeps whatever it is given, sorts text behind them."""
    return Segment.objects.using(using).filter(first__gt=0, first__lte=F("last"), last__lt=MAX_SEQ)


def _pks(rows: QuerySet[Segment]) -> list[int]:
    return list(rows.values_list("pk", flat=True))


def _first(rows: QuerySet[Segment], using: str = "default") -> ArchiveFile | None:
    found = _pks(rows[:1])
    return _read(found[0], using) if found else None


# As text, whatever somebody has put there; what the row says of the file's name is not read.
_TEXTS = ("last_at", "sha256", "prev", "tree", "rotations", "at")
_NUMBERS = ("first", "last", "size", "entry")
_READ = {
    "sqlite": "SELECT first, last, size, entry, CAST(last_at AS BLOB), CAST(sha256 AS BLOB), "
    "CAST(prev AS BLOB), CAST(tree AS BLOB), CAST(rotations AS BLOB), CAST(at AS BLOB) "
    "FROM switcher_segment WHERE id = %s",
    "postgresql": "SELECT first, last, size, entry, to_json(last_at)#>>'{}', sha256, prev, tree, "
    "rotations::text, to_json(at)#>>'{}' FROM switcher_segment WHERE id = %s",
}


def _read(pk: int, using: str) -> ArchiveFile:
    connection = connections[using]
    with connection.cursor() as cursor:
        cursor.execute(_READ[connection.vendor], [pk])
        row = dict(zip((*_NUMBERS, *_TEXTS), cursor.fetchone(), strict=True))
    return _moved(row)


def _moved(row: dict[str, Any]) -> ArchiveFile:
    """What a row says, and what of it cannot be read."""
    damaged: list[str] = []

    def take(name: str, read: Callable[[Any], T], instead: T) -> T:
        try:
            return read(row[name])
        except UNREADABLE:
            damaged.append(name)
            return instead

    numbers = {name: take(name, _number, 0) for name in _NUMBERS}
    tree = take("tree", lambda raw: _tree(raw, numbers["last"]), Tree())
    return ArchiveFile(
        **numbers,
        last_at=take("last_at", _moment, NEVER),
        sha256=take("sha256", lambda raw: _hash(raw).hex(), ""),
        prev=take("prev", _hash, b""),
        tree=tree,
        rotations=take("rotations", _rotations, ()),
        at=take("at", _moment, NEVER),
        damage=", ".join(damaged),
    )


def _text(raw: Any) -> str:
    return raw if isinstance(raw, str) else bytes(raw).decode()


def _number(raw: Any) -> int:
    if not isinstance(raw, int) or not 0 <= raw < MAX_SEQ:
        raise ValueError
    return raw


def _hash(raw: Any) -> bytes:
    found = bytes.fromhex(_text(raw))
    if len(found) != 32:
        raise ValueError
    return found


def _tree(raw: Any, size: int) -> Tree:
    tree = Tree.from_text(_text(raw))
    if tree.size != size or any(len(peak) != 32 for peak in tree.peaks):
        raise ValueError
    return tree


def _moment(raw: Any) -> datetime:
    return read_moment(_text(raw))


def _rotations(raw: Any) -> tuple[dict[str, str], ...]:
    return tuple(Rotation.from_json(told).to_json() for told in json.loads(_text(raw)))
