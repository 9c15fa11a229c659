"""An attacker who has the database's password, and for some attacks also the server's files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from django.db import connection

from switcher.audit import checkpoints, deliveries
from switcher.audit.deliveries import send
from switcher.audit.immutability_triggers import drop_triggers
from switcher.audit.ledger import Actor, append, writing
from switcher.audit.ledger_reader import stored_rows
from switcher.audit.paths import sinks
from switcher.audit.signing_keys import KeyFiles, SigningKey, new_key
from switcher.audit.verifier.switchboard_verify import GENESIS, Tree, leaf
from switcher.models import Checkpoint, LedgerRow
from tests.audit.conftest import Entry
from tests.clocks import FakeClock

TABLE = "switcher_ledgerrow"
ANNA = Actor("anna", "page")


def write(count: int, clock: FakeClock, **facts: Any) -> None:
    for n in range(count):
        clock.pass_time(1)
        with writing():
            append("test.told", ANNA, clock=clock, n=n, **facts)


def sign_and_anchor(clock: FakeClock) -> None:
    """Sign a checkpoint and deliver it outside the database."""
    assert checkpoints.sign(clock) is not None
    for sink in sinks():
        while (claimed := deliveries.claim(sink.name, clock)) is not None:
            send(sink, claimed.checkpoint.note)
            deliveries.mark_delivered(claimed, clock)


def export(anchored: bool = True) -> list[str]:
    """Return the trail as an auditor exports it."""
    rows = [row for some in stored_rows() for row in some]
    notes = {c.size: c.note for c in Checkpoint.objects.all()} if anchored else {}
    lines = []
    for seq, body, prev, made in rows:
        line = {"type": "entry", "seq": seq, "body": body, "prev": prev.hex(), "hash": made.hex()}
        lines.append(json.dumps(line))
        if seq in notes:
            lines.append(json.dumps({"type": "checkpoint", "note": notes[seq]}))
    return lines


@dataclass
class Attacker:
    """The steps of attacks. The triggers are dropped first."""

    files: KeyFiles
    clock: FakeClock

    def __post_init__(self) -> None:
        drop_triggers()

    def sql(self, text: str, *values: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(text, values)

    def rows(self) -> list[Entry]:
        return [Entry(*row) for some in stored_rows() for row in some]

    def set(self, where: int, /, **fields: Any) -> None:
        for name, value in fields.items():
            self.sql(f"UPDATE {TABLE} SET {name} = %s WHERE seq = %s", value, where)

    def delete(self, *seqs: int) -> None:
        for seq in seqs:
            self.sql(f"DELETE FROM {TABLE} WHERE seq = %s", seq)

    def put(self, rows: list[Entry]) -> None:
        """Replace all entries by these."""
        self.sql(f"DELETE FROM {TABLE}")
        LedgerRow.objects.bulk_create(
            LedgerRow(seq=r.seq, body=r.body, prev=r.prev, hash=r.hash) for r in rows
        )

    def rechained(self, bodies: list[str], first: int = 1) -> list[Entry]:
        """Return these entries with numbers and hashes recomputed, from entry `first` on."""
        rows, prev = [], GENESIS
        if first > 1:
            prev = self.rows()[first - 2].hash
        for seq, body in enumerate(bodies, first):
            recorded = json.loads(body) | {"seq": seq}
            text = json.dumps(recorded, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            rows.append(Entry(seq, text, prev, leaf(prev, text)))
            prev = rows[-1].hash
        return rows

    def forget_checkpoints(self, above: int = -1) -> None:
        Checkpoint.objects.filter(size__gt=above).delete()

    def forget_anchors(self) -> None:
        """Needs the server's files."""
        self.files.private.with_name("anchors.txt").unlink()

    def take_own_key(self) -> SigningKey:
        """Replace the key and its public side by the attacker's. Needs the server's files."""
        mine = new_key(self.files.name)
        self.files.private.unlink()
        self.files.public.unlink()
        self.files._write_key(self.files.private, mine)
        self.files._publish(mine.public)
        return mine

    def resign(self, key: SigningKey) -> None:
        """Sign every checkpoint again, over what is stored now."""
        tree, sizes = Tree(), {c.size: c for c in Checkpoint.objects.all()}
        for row in self.rows():
            tree.extend([row.hash])
            if row.seq in sizes:
                note = key.checkpoint(tree.size, tree.root())
                Checkpoint.objects.filter(pk=sizes[row.seq].pk).update(
                    note=note, tree=tree.to_text()
                )


def as_mallory(entry: Entry) -> Entry:
    """Return the same entry about somebody else."""
    return entry._replace(body=entry.body.replace('"actor":"anna"', '"actor":"mallory"'))
