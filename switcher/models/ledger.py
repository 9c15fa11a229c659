"""The audit ledger, its search index, and the proofs made from it."""

from __future__ import annotations

import json
from errno import ENOENT
from os import strerror
from pathlib import Path
from typing import Any, BinaryIO

from django.conf import settings
from django.db import models
from django.db.models import Q

from switcher.models.accounts import Origin
from switcher.models.switches import SwitchEvent
from switcher.models.trail import TrailRow


class LedgerRow(TrailRow):
    """An entry of the trail as it was written and hashed: the evidence. Append-only, by trigger.

    `hash` is SHA-256(0x00 || prev || body): the link of the chain and an RFC 6962 leaf.
    """

    seq = models.BigIntegerField(primary_key=True)
    # Canonical JSON: sorted keys, no spaces, no floats. The text is what is hashed, so it is never
    # a JSON column, whose members a database reorders.
    body = models.TextField()
    prev = models.BinaryField(max_length=32)
    hash = models.BinaryField(max_length=32)

    def __str__(self) -> str:
        return f"entry {self.seq}"


class AuditEntry(TrailRow):
    """The columns to search an entry by. Derived from the ledger, and can be rebuilt from it."""

    seq = models.BigIntegerField(primary_key=True)
    at = models.DateTimeField()
    kind = models.CharField(max_length=40)
    actor = models.CharField(max_length=150)
    host = models.CharField(max_length=40, blank=True)
    model = models.CharField(max_length=200, blank=True)
    outcome = models.CharField(max_length=12, blank=True)
    reason = models.CharField(max_length=500, blank=True)
    switch = models.ForeignKey(
        SwitchEvent, null=True, on_delete=models.PROTECT, related_name="entries"
    )
    origin = models.ForeignKey(Origin, null=True, on_delete=models.PROTECT)

    class Meta:
        ordering = ["-seq"]
        verbose_name_plural = "audit entries"
        indexes = [
            models.Index(fields=["kind", "-seq"], name="entry_by_kind"),
            models.Index(fields=["actor", "-seq"], name="entry_by_actor"),
            models.Index(fields=["host", "-seq"], name="entry_by_host"),
            models.Index(fields=["model", "-seq"], name="entry_by_model"),
            models.Index(
                fields=["outcome", "-seq"], name="entry_by_outcome", condition=~Q(outcome="")
            ),
            models.Index(fields=["at"], name="entry_by_time"),
            # To find which model was active when; holds a small share of all entries.
            models.Index(
                fields=["host", "-seq"], name="entry_activated", condition=Q(kind="host.activated")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.seq} {self.kind}"

    @property
    def body(self) -> str:
        """Return the text that was hashed, with a query of its own."""
        return LedgerRow.objects.values_list("body", flat=True).get(pk=self.seq)

    @property
    def facts(self) -> dict[str, Any]:
        """Return the facts in the body."""
        facts: dict[str, Any] = json.loads(self.body)["facts"]
        return facts


class Checkpoint(TrailRow):
    """A signed note over the first `size` entries."""

    size = models.BigIntegerField()
    note = models.TextField()
    # The tree at that size, so that the next checkpoint need not read all entries again. It is
    # checked against the signed root in the note.
    tree = models.TextField()
    at = models.DateTimeField()

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["size"], name="checkpoint_by_size")]

    def __str__(self) -> str:
        return f"checkpoint over {self.size}"


class CheckpointDelivery(TrailRow):
    """A checkpoint on its way to a sink outside of this database."""

    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.CASCADE, related_name="deliveries")
    sink = models.CharField(max_length=20)  # file, syslog, webhook
    tries = models.PositiveIntegerField(default=0)
    next_at = models.DateTimeField()
    error = models.CharField(max_length=300, blank=True)
    delivered_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "switcher_delivery"
        constraints = [
            models.UniqueConstraint(fields=["checkpoint", "sink"], name="delivered_once"),
        ]
        indexes = [
            models.Index(fields=["next_at"], name="delivery_due", condition=Q(delivered_at=None))
        ]

    def __str__(self) -> str:
        return f"{self.checkpoint} to {self.sink}"


class ArchiveFile(TrailRow):
    """A sealed file that old entries were moved to. Its row is protected by triggers. Each file
    continues the one before it."""

    first = models.BigIntegerField()
    last = models.BigIntegerField(unique=True)
    last_at = models.DateTimeField()
    name = models.CharField(max_length=100)
    size = models.BigIntegerField()  # bytes
    sha256 = models.CharField(max_length=64)
    # The starting point for verifying later entries: the hash of the last entry, the tree up to it,
    # and the changes of key until then.
    prev = models.CharField(max_length=64)
    tree = models.TextField()
    rotations = models.JSONField(default=list)
    entry = models.BigIntegerField()  # the number of the entry about the file
    at = models.DateTimeField()

    class Meta:
        db_table = "switcher_segment"
        ordering = ["first"]

    def __str__(self) -> str:
        return f"entries {self.first} to {self.last}"

    @staticmethod
    def name_for(first: int, last: int) -> str:
        return f"audit-{first:012d}-{last:012d}.jsonl"

    @property
    def file_name(self) -> str:
        """Return the name of the file. The column `name` is not used: anyone who can write to the
        database could put a path there."""
        return self.name_for(self.first, self.last)

    @property
    def path(self) -> Path:
        return Path(settings.SWITCHER_AUDIT_SEGMENTS) / self.file_name

    @property
    def is_there(self) -> bool:
        """Return whether the file exists. Links do not count, as they may lead anywhere."""
        return self.path.is_file() and not self.path.is_symlink()

    def open(self) -> BinaryIO:
        """Open the file for reading. Raises OSError."""
        if not self.is_there:
            raise FileNotFoundError(ENOENT, strerror(ENOENT), self.file_name)
        return self.path.open("rb")

    @property
    def count(self) -> int:
        return self.last - self.first + 1


class Review(TrailRow):
    """An auditor's mark that an entry was reviewed. The mark is recorded as an entry, too."""

    seq = models.BigIntegerField(db_index=True)
    by = models.CharField(max_length=150)
    at = models.DateTimeField()
    note = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"entry {self.seq} reviewed by {self.by}"
