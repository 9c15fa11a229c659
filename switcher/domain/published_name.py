"""The published name of a host: what is recorded of it, and what is to be done with it where a host
holds this or that. Pure: no I/O, no Django.

The name is a copy of the active model (facts 21, 22). It is Switchboard's from the moment that the
record says so until it is taken out of the record; and even then what somebody else has put under
it is only written over where nothing is lost by that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from switcher.domain.model_copies import find_name, without, without_copies
from switcher.domain.model_names import NO_NAME, ModelName
from switcher.domain.observed import Installed, find_installed


@dataclass(frozen=True, slots=True)
class PublishedName:
    """`wanted` is the name that is set, empty for none. `name` is ours on the server, a copy of
    `tag`, and was seen to mean `digest`: empty while it is being pointed, as it may mean either
    model then."""

    host: str
    wanted: ModelName
    name: ModelName
    tag: ModelName
    digest: str
    active_tag: ModelName
    active_digest: str

    @classmethod
    def of(cls, row: Any) -> PublishedName:
        """From the row of its host."""
        return cls(
            host=row.name,
            wanted=ModelName.parse(row.published_name),
            name=ModelName.parse(row.published_as),
            tag=ModelName.parse(row.published_tag),
            digest=row.published_digest,
            active_tag=ModelName.parse(row.active_tag),
            active_digest=row.active_digest,
        )

    def with_active(self, tag: ModelName, digest: str) -> PublishedName:
        """As it will be when this model is the active one."""
        return replace(self, active_tag=tag, active_digest=digest)

    @property
    def short(self) -> str:
        return self.wanted.short

    @property
    def means(self) -> str:
        """What it was pointed at, as people write it."""
        return self.tag.short

    @property
    def copied(self) -> dict[ModelName, ModelName]:
        """The model that the recorded name is a copy of, by that name; empty if there is none."""
        return {self.name: self.tag} if self.name else {}

    @property
    def is_ours(self) -> bool:
        """Whether the wanted name is recorded as Switchboard's."""
        return bool(self.wanted) and self.name == self.wanted

    @property
    def due(self) -> bool:
        """Whether what is set was not carried out yet, or was cut off in the middle."""
        if not self.wanted or not self.active_digest:
            return bool(self.name)
        return (self.name, self.digest) != (self.wanted, self.active_digest)


@dataclass(frozen=True, slots=True)
class PublishedNamePlan:
    """What there is to be done, in this order: take the recorded name `withdraw` out of the record,
    `delete` it on the host before that, copy `source` to the wanted name. `barred` says why the
    wanted name cannot be pointed; without it and without a source it means what it should."""

    withdraw: ModelName = NO_NAME
    delete: bool = False
    source: ModelName = NO_NAME
    barred: str = ""


def plan_published_name(p: PublishedName, installed: Iterable[Installed]) -> PublishedNamePlan:
    """What is to be done with the name where this is on the host's disk."""
    rows = tuple(installed)
    wanted = p.wanted if p.active_digest else NO_NAME
    withdraw = p.name if p.name != wanted else NO_NAME
    todo = PublishedNamePlan(withdraw, _is_to_go(p, withdraw, rows))
    there = find_installed(rows, wanted)
    if not wanted or (p.is_ours and there is not None and there.digest == p.active_digest):
        return todo
    if is_taken(p, rows):
        return replace(todo, barred=taken_text(p))
    # What is about to be deleted is no source.
    source = find_name(p.active_digest, p.active_tag, without(rows, withdraw))
    return replace(todo, source=source, barred="" if source else unreached_text(p))


def is_taken(p: PublishedName, installed: Iterable[Installed]) -> bool:
    """Whether a model lies under the wanted name that is not ours to write over: any, before the
    name is ours; later one that somebody has put there and that has no other name."""
    rows = tuple(installed)
    there = find_installed(rows, p.wanted)
    if there is None:
        return False
    if not p.is_ours:
        return True
    return there.digest not in (p.digest, p.active_digest) and not _is_elsewhere(there, rows)


def _is_to_go(p: PublishedName, name: ModelName, rows: tuple[Installed, ...]) -> bool:
    """Whether a name that is not wanted any more still is our copy. One that was cut off while it
    was pointed may mean either model: it goes where nothing is lost."""
    there = find_installed(rows, name)
    if there is None:
        return False
    return there.digest == p.digest if p.digest else _is_elsewhere(there, rows)


def _is_elsewhere(there: Installed, rows: tuple[Installed, ...]) -> bool:
    """Whether the same content has another name. A copy that we hold is none: it goes when the
    model leaves the memory."""
    others = without(without_copies(rows), there.name)
    return any(i.digest == there.digest for i in others)


def taken_text(p: PublishedName) -> str:
    """Why the name is not written, and what to do."""
    return (
        f"{p.host} has a model {p.wanted} that is not Switchboard's. "
        "Choose another published name, or remove that model."
    )


def unreached_text(p: PublishedName) -> str:
    """Why there is nothing to copy: the model's name means other content by now (fact 23)."""
    return f"No name on {p.host} means {p.active_tag} as it was loaded."
