"""The model copies that Switchboard keeps on hosts, as recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from switcher.domain.model_copies import is_copy_name
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Resident
from switcher.domain.published_name import PublishedName
from switcher.models import Host, ModelCopy


@dataclass(frozen=True, slots=True)
class ModelCopyRow:
    """A copy of the model `tag`, under one of Switchboard's names."""

    digest: str
    tag: ModelName
    name: ModelName
    made_at: datetime


def model_copies_of(host_id: int) -> tuple[ModelCopyRow, ...]:
    """Return the model copies of a host, oldest first."""
    rows = ModelCopy.objects.filter(host_id=host_id).order_by("id")
    return tuple(map(copy_of, rows))


def copy_of(row: ModelCopy) -> ModelCopyRow:
    return ModelCopyRow(
        row.digest, ModelName.parse(row.tag), ModelName.parse(row.name), row.made_at
    )


def tags_of(host_id: int, resident: Iterable[Resident]) -> Mapping[ModelName, ModelName]:
    """Return the model behind each resident model copy and published name of a host, by the copy's
    name."""
    host = Host.objects.filter(pk=host_id).first()
    published = PublishedName.of(host).copied if host else {}
    return {**tags_by_host({host_id: resident}).get(host_id, {}), **published}


def tags_by_host(
    resident: Mapping[int, Iterable[Resident]],
) -> Mapping[int, Mapping[ModelName, ModelName]]:
    """Return the models behind the resident model copies of many hosts, by host id and copy name.
    Published names are not included. Makes at most one query."""
    asked = [i for i, rows in resident.items() if any(is_copy_name(r.name) for r in rows)]
    found: dict[int, dict[ModelName, ModelName]] = {}
    if asked:
        for row in ModelCopy.objects.filter(host_id__in=asked):
            copy = copy_of(row)
            found.setdefault(row.host_id, {})[copy.name] = copy.tag
    return found
