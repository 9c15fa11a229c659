"""Keep what was learned about the memory that models take: bounded rows, the oldest go first."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from switcher.domain.memory import ModelFacts
from switcher.domain.observed import Resident
from switcher.models import Host, KnownModel, LearnedSize

MAX_SIZES = 300  # for each host
MAX_MODELS = 2000


def learn_sizes(host_id: int, resident: Iterable[Resident], now: datetime) -> None:
    """Keep the size of each loaded model with its context length, if it is news."""
    rows = LearnedSize.objects.filter(host_id=host_id)
    known = {(d, c): size for d, c, size in rows.values_list("digest", "context_length", "size")}
    news = [
        r
        for r in resident
        if r.size and r.context_length and known.get((r.digest, r.context_length)) != r.size
    ]
    if not news or not Host.objects.filter(pk=host_id).exists():
        return
    with transaction.atomic():
        for r in news:
            rows.update_or_create(
                host_id=host_id,
                digest=r.digest,
                context_length=min(r.context_length, 2**31 - 1),
                defaults={"size": r.size, "seen_at": now},
            )
        _drop_oldest(rows, MAX_SIZES)


def learn_default_contexts(host_id: int, loaded: Iterable[Resident], now: datetime) -> None:
    """Keep the context lengths of models that were loaded just now without a `num_ctx`."""
    known = [r for r in loaded if r.size and r.context_length]
    learn_sizes(host_id, known, now)
    for r in known:
        rows = LearnedSize.objects.filter(host_id=host_id, digest=r.digest)
        with transaction.atomic():
            rows.exclude(context_length=r.context_length).update(by_default=False)
            rows.filter(context_length=r.context_length).update(by_default=True)


def forget_sizes(host_id: int, now: datetime) -> None:
    """Forget what models took on this host before, and count no switch from before."""
    LearnedSize.objects.filter(host_id=host_id).delete()
    Host.objects.filter(pk=host_id).update(sizes_since=now)


def keep_facts(digest: str, facts: ModelFacts | None, now: datetime) -> None:
    """Keep what a model's own description tells; None if it does not tell enough."""
    row = facts.to_json() if facts else None
    with transaction.atomic():
        KnownModel.objects.update_or_create(digest=digest, defaults={"facts": row, "seen_at": now})
        _drop_oldest(KnownModel.objects.all(), MAX_MODELS)


def _drop_oldest(rows: QuerySet[Any], most: int) -> None:
    kept = rows.order_by("-seen_at", "-id").values_list("id", flat=True)[:most]
    if rows.count() > most:
        rows.exclude(id__in=list(kept)).delete()
