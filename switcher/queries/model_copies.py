"""The copies that Switchboard keeps on hosts, as the rows tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from switcher.domain.model_copies import is_copy_name, with_model_names, without, without_copies
from switcher.domain.observed import Installed, Observation, Resident
from switcher.models import Host, ModelCopy


@dataclass(frozen=True, slots=True)
class ModelCopyRow:
    """A name on a host that is ours: a copy of `tag`, with its digest."""

    digest: str
    tag: str
    name: str
    made_at: datetime


def model_copies_of(host_id: int) -> tuple[ModelCopyRow, ...]:
    """All of a host, the oldest first."""
    rows = ModelCopy.objects.filter(host_id=host_id).order_by("id")
    return tuple(ModelCopyRow(h.digest, h.tag, h.name, h.made_at) for h in rows)


def tags_of(host_id: int, resident: Iterable[Resident]) -> Mapping[str, str]:
    """What each handle of a host, and its published name, is a copy of, by its name."""
    row = Host.objects.filter(pk=host_id).values_list("published_as", "published_tag").first()
    published = dict([row]) if row and row[0] else {}
    return {**tags_by_host({host_id: resident}).get(host_id, {}), **published}


def tags_by_host(resident: Mapping[int, Iterable[Resident]]) -> Mapping[int, Mapping[str, str]]:
    """The same for many hosts, in one query at most."""
    asked = [i for i, rows in resident.items() if any(is_copy_name(r.name) for r in rows)]
    found: dict[int, dict[str, str]] = {}
    if asked:
        rows = ModelCopy.objects.filter(host_id__in=asked).values_list("host_id", "name", "tag")
        for host_id, name, tag in rows:
            found.setdefault(host_id, {})[name] = tag
    return found


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What copy cleanup needs to know of a host: what should be loaded, which names are ours,
    and what it was last seen to hold."""

    base_url: str
    active_tag: str
    active_digest: str
    pinned: tuple[str, ...]  # tags
    model_copies: tuple[ModelCopyRow, ...]
    resident: tuple[Resident, ...]
    installed: tuple[Installed, ...]


def upkeep_of(host_id: int) -> Upkeep | None:
    """None where the host is gone, or its last reading says nothing of what it holds now."""
    host = Host.objects.filter(pk=host_id, removed_at=None).select_related("reading").first()
    reading = getattr(host, "reading", None)
    if host is None or reading is None or reading.error:
        return None
    return Upkeep(
        base_url=host.base_url,
        active_tag=host.active_tag,
        active_digest=host.active_digest,
        pinned=tuple(host.pinned.values_list("tag", flat=True)),
        model_copies=model_copies_of(host_id),
        resident=tuple(Resident.from_json(r) for r in reading.resident),
        installed=tuple(Installed.from_json(i) for i in reading.installed),
    )


def as_models(host_id: int, seen: Observation) -> Observation:
    """A reading by the names of models: without the copies, which are nothing to switch to."""
    ours = Host.objects.filter(pk=host_id).values_list("published_as", flat=True).first() or ""
    return replace(
        seen,
        resident=with_model_names(seen.resident, tags_of(host_id, seen.resident)),
        installed=without(without_copies(seen.installed), ours),
    )
