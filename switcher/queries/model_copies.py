"""The model copies that Switchboard keeps on hosts, as recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from switcher.domain.model_copies import is_copy_name
from switcher.domain.observed import Resident
from switcher.models import Host, ModelCopy


@dataclass(frozen=True, slots=True)
class ModelCopyRow:
    """A copy of the model `tag`, under a name that is Switchboard's."""

    digest: str
    tag: str
    name: str
    made_at: datetime


def model_copies_of(host_id: int) -> tuple[ModelCopyRow, ...]:
    """Return the model copies of a host, oldest first."""
    rows = ModelCopy.objects.filter(host_id=host_id).order_by("id")
    return tuple(map(copy_of, rows))


def copy_of(row: ModelCopy) -> ModelCopyRow:
    return ModelCopyRow(row.digest, row.tag, row.name, row.made_at)


def tags_of(host_id: int, resident: Iterable[Resident]) -> Mapping[str, str]:
    """Return by name what the resident copies and the published name of a host are copies of."""
    row = Host.objects.filter(pk=host_id).values_list("published_as", "published_tag").first()
    published = dict([row]) if row and row[0] else {}
    return {**tags_by_host({host_id: resident}).get(host_id, {}), **published}


def tags_by_host(resident: Mapping[int, Iterable[Resident]]) -> Mapping[int, Mapping[str, str]]:
    """Return the same for many hosts, without the published names, in one query at most."""
    asked = [i for i, rows in resident.items() if any(is_copy_name(r.name) for r in rows)]
    found: dict[int, dict[str, str]] = {}
    if asked:
        rows = ModelCopy.objects.filter(host_id__in=asked).values_list("host_id", "name", "tag")
        for host_id, name, tag in rows:
            found.setdefault(host_id, {})[name] = tag
    return found
