"""The copies that Switchboard keeps on hosts, as the rows tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from switcher.handles import is_handle, known_as, without, without_handles
from switcher.models import Handle, Host
from switcher.observed import Installed, Observation, Resident


@dataclass(frozen=True, slots=True)
class HandleRow:
    """A name on a host that is ours: a copy of `tag`, with its digest."""

    digest: str
    tag: str
    name: str
    made_at: datetime


def handles_of(host_id: int) -> tuple[HandleRow, ...]:
    """All of a host, the oldest first."""
    rows = Handle.objects.filter(host_id=host_id).order_by("id")
    return tuple(HandleRow(h.digest, h.tag, h.name, h.made_at) for h in rows)


def tags_of(host_id: int, resident: Iterable[Resident]) -> Mapping[str, str]:
    """What each handle of a host, and its published name, is a copy of, by its name."""
    row = Host.objects.filter(pk=host_id).values_list("published_as", "published_tag").first()
    published = dict([row]) if row and row[0] else {}
    return {**tags_by_host({host_id: resident}).get(host_id, {}), **published}


def tags_by_host(resident: Mapping[int, Iterable[Resident]]) -> Mapping[int, Mapping[str, str]]:
    """The same for many hosts, in one query at most."""
    asked = [i for i, rows in resident.items() if any(is_handle(r.name) for r in rows)]
    found: dict[int, dict[str, str]] = {}
    if asked:
        rows = Handle.objects.filter(host_id__in=asked).values_list("host_id", "name", "tag")
        for host_id, name, tag in rows:
            found.setdefault(host_id, {})[name] = tag
    return found


@dataclass(frozen=True, slots=True)
class Upkeep:
    """A host as who looks after its handles needs it: what is to be loaded, which names are ours,
    and what it was last seen to hold."""

    base_url: str
    active_tag: str
    active_digest: str
    preloaded: tuple[str, ...]  # tags
    handles: tuple[HandleRow, ...]
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
        preloaded=tuple(host.preloaded.values_list("tag", flat=True)),
        handles=handles_of(host_id),
        resident=tuple(Resident.from_json(r) for r in reading.resident),
        installed=tuple(Installed.from_json(i) for i in reading.installed),
    )


def as_models(host_id: int, seen: Observation) -> Observation:
    """A reading by the names of models: without the copies, which are nothing to switch to."""
    ours = Host.objects.filter(pk=host_id).values_list("published_as", flat=True).first() or ""
    return replace(
        seen,
        resident=known_as(seen.resident, tags_of(host_id, seen.resident)),
        installed=without(without_handles(seen.installed), ours),
    )
