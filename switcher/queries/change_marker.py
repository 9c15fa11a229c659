"""Whether anything has changed, asked cheaply: for who looks again each second."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Subquery

from switcher.models import AuditEntry, Reading

Pulse = tuple[int, datetime | None]


def pulse() -> Pulse:
    """The newest entry's number and the newest stored reading's time, in one query.

    Another pair: something was changed, by this process or by another one. Readings are stored
    each 15 s at the latest; a process that reads hosts itself knows of newer ones.
    """
    read = Reading.objects.order_by("-at").values("at")[:1]
    entries = AuditEntry.objects.order_by("-seq").annotate(read_at=Subquery(read))
    # No host without its entry: where there is no entry there is no reading either.
    return entries.values_list("seq", "read_at").first() or (0, None)


def newest_entry() -> int:
    """The newest entry's number: another one, and what is desired may have changed."""
    return AuditEntry.objects.order_by("-seq").values_list("seq", flat=True).first() or 0
