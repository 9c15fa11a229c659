"""A cheap way for loops to see every second whether anything has changed."""

from __future__ import annotations

from datetime import datetime

from django.db.models import Subquery

from switcher.models import AuditEntry, Reading

ChangeMarker = tuple[int, datetime | None]


def change_marker() -> ChangeMarker:
    """Return the newest entry's number and the newest stored reading's time, in one query.

    If they have changed, this or another process has changed something. Readings are stored
    every 15 s at the latest; a process that reads hosts itself has newer ones.
    """
    read = Reading.objects.order_by("-at").values("at")[:1]
    entries = AuditEntry.objects.order_by("-seq").annotate(read_at=Subquery(read))
    # Adding a host leaves an entry: without entries there are no readings either.
    return entries.values_list("seq", "read_at").first() or (0, None)


def newest_entry() -> int:
    """Return the newest entry's number. If it has changed, the desired state of the hosts may have
    changed.
    """
    return AuditEntry.objects.order_by("-seq").values_list("seq", flat=True).first() or 0
