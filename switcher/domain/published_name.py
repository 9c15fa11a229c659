"""The published name of a host: what is recorded about it, and what to do about it. Pure: no I/O,
no Django.

The name is a copy of the active model (facts 21, 22). It is Switchboard's for as long as the record
says so. Even then, what somebody else has put under it is overwritten only if that loses nothing.
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
    """The setting and the record. `wanted` is the name that is set, empty for none. `name` is the
    one that is ours on the server: a copy of `tag` that was seen to point to `digest`. The digest
    is empty while the name is being pointed, since it may point to either model then."""

    host: str
    wanted: ModelName
    name: ModelName
    tag: ModelName
    digest: str
    active_tag: ModelName
    active_digest: str

    @classmethod
    def of(cls, row: Any) -> PublishedName:
        """Return it as stored in the row of its host."""
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
        """Return it as it will be once this model is active."""
        return replace(self, active_tag=tag, active_digest=digest)

    @property
    def short(self) -> str:
        return self.wanted.short

    @property
    def means(self) -> str:
        """The model that the name was pointed at, as people write it."""
        return self.tag.short

    @property
    def copied(self) -> dict[ModelName, ModelName]:
        """Return a mapping from the recorded name to the model that it is a copy of; empty if there
        is none."""
        return {self.name: self.tag} if self.name else {}

    @property
    def is_ours(self) -> bool:
        """Return whether the name that is set is recorded as Switchboard's."""
        return bool(self.wanted) and self.name == self.wanted

    @property
    def due(self) -> bool:
        """Whether the setting still has to be applied, in full or in part."""
        if not self.wanted or not self.active_digest:
            return bool(self.name)
        return (self.name, self.digest) != (self.wanted, self.active_digest)


@dataclass(frozen=True, slots=True)
class PublishedNamePlan:
    """What to do, in this order: with `delete`, delete the recorded name `withdraw` on the host;
    remove `withdraw` from the record; copy `source` to the wanted name. `barred` says why the
    wanted name cannot be pointed. If both `barred` and `source` are empty, the name already points
    where it should."""

    withdraw: ModelName = NO_NAME
    delete: bool = False
    source: ModelName = NO_NAME
    barred: str = ""


def plan_published_name(p: PublishedName, installed: Iterable[Installed]) -> PublishedNamePlan:
    """Return what to do about the name on a host with these models installed."""
    rows = tuple(installed)
    wanted = p.wanted if p.active_digest else NO_NAME
    withdraw = p.name if p.name != wanted else NO_NAME
    plan = PublishedNamePlan(withdraw, _may_delete(p, withdraw, rows))
    existing = find_installed(rows, wanted)
    if not wanted or (p.is_ours and existing and existing.digest == p.active_digest):
        return plan
    if is_taken(p, rows):
        return replace(plan, barred=taken_text(p))
    # A name that is about to be deleted is no source.
    source = find_name(p.active_digest, p.active_tag, without(rows, withdraw))
    return replace(plan, source=source, barred="" if source else unreached_text(p))


def is_taken(p: PublishedName, installed: Iterable[Installed]) -> bool:
    """Return whether the wanted name holds a model that we must not overwrite. Before the name is
    ours, that is any model; afterwards, one that somebody has put there and that has no other name.
    """
    rows = tuple(installed)
    existing = find_installed(rows, p.wanted)
    if existing is None:
        return False
    if not p.is_ours:
        return True
    known = (p.digest, p.active_digest)
    return existing.digest not in known and not _has_other_name(existing, rows)


def _may_delete(p: PublishedName, name: ModelName, rows: tuple[Installed, ...]) -> bool:
    """Return whether a name that is no longer wanted is still our copy. If pointing it was
    interrupted, it may point to either model, and is deleted only if that loses nothing."""
    existing = find_installed(rows, name)
    if existing is None:
        return False
    return existing.digest == p.digest if p.digest else _has_other_name(existing, rows)


def _has_other_name(row: Installed, rows: tuple[Installed, ...]) -> bool:
    """Return whether the same content has another name. A model copy does not count: it is removed
    when the model is unloaded."""
    others = without(without_copies(rows), row.name)
    return any(i.digest == row.digest for i in others)


def taken_text(p: PublishedName) -> str:
    """Return why the name is not overwritten, and what to do."""
    return (
        f"{p.host} has a model {p.wanted} that is not Switchboard's. "
        "Choose another published name, or remove that model."
    )


def unreached_text(p: PublishedName) -> str:
    """Return why there is nothing to copy: the model's name points to other content now (fact
    23)."""
    return f"No name on {p.host} points to the content of {p.active_tag} that was loaded."
