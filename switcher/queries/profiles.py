"""Profiles, as a list and as values for a form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from switcher.domain.clock import Clock, system
from switcher.domain.observed import short_name
from switcher.domain.specs import WarmUp, check_warmups
from switcher.domain.states import OPEN
from switcher.domain.wording import keep_alive_words
from switcher.models import ApiKey, GatewayName, Host, ModelProfile, Pin, SwitchEvent


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """A profile with what uses it. `active_on` and the like are names of hosts; on those of
    `named_on` clients get it by a name. `keys` are bound to it, and work."""

    id: int
    name: str
    tag: str
    model: str
    keep_alive: str
    keep_alive_words: str
    options: dict[str, Any]
    warmups: tuple[WarmUp, ...]
    load_timeout_s: int | None
    min_gpu_percent: int | None
    min_tokens_per_s: float | None
    floor_fails: bool
    notes: str
    changed_at: datetime
    active_on: tuple[str, ...]
    pinned_on: tuple[str, ...]
    switching_on: tuple[str, ...]
    named_on: tuple[str, ...]
    keys: tuple[str, ...]

    @property
    def used_on(self) -> tuple[str, ...]:
        """The hosts that use it in any way."""
        used = {*self.active_on, *self.pinned_on, *self.switching_on, *self.named_on}
        return tuple(sorted(used))


def profile_list(clock: Clock = system) -> tuple[ProfileRow, ...]:
    """All profiles by name, with their uses: seven queries."""
    return _rows(ModelProfile.objects.all(), clock)


def profile(name: str, clock: Clock = system) -> ProfileRow | None:
    """One profile; None if there is none of this name."""
    return next(iter(_rows(ModelProfile.objects.filter(name=name), clock)), None)


def profile_names() -> tuple[str, ...]:
    return tuple(ModelProfile.objects.values_list("name", flat=True))


def _rows(profiles: Iterable[ModelProfile], clock: Clock) -> tuple[ProfileRow, ...]:
    active = _grouped(
        Host.objects.filter(removed_at=None)
        .exclude(active_profile=None)
        .values_list("active_profile_id", "name")
    )
    pinned = _grouped(
        Pin.objects.filter(host__removed_at=None).values_list("profile_id", "host__name")
    )
    switching = _grouped(
        SwitchEvent.objects.filter(state__in=sorted(OPEN))
        .exclude(to_profile_id=None)
        .values_list("to_profile_id", "host__name")
    )
    named = _grouped(
        GatewayName.objects.filter(host__removed_at=None).values_list("profile_id", "host__name")
    )
    working = ApiKey.working(clock.now()).order_by("name", "id").prefetch_related("profiles")
    keys = _grouped((p.pk, str(key)) for key in working for p in key.profiles.all())
    uses = (active, pinned, switching, named, keys)
    return tuple(_row(p, *(use.get(p.pk, ()) for use in uses)) for p in profiles)


def _grouped(rows: Iterable[tuple[Any, str]]) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for key, name in rows:
        found[key] = (*found.get(key, ()), name)
    return found


def _row(
    p: ModelProfile,
    active_on: tuple[str, ...],
    pinned_on: tuple[str, ...],
    switching_on: tuple[str, ...],
    named_on: tuple[str, ...],
    keys: tuple[str, ...],
) -> ProfileRow:
    return ProfileRow(
        id=p.pk,
        name=p.name,
        tag=p.tag,
        model=short_name(p.tag),
        keep_alive=p.keep_alive,
        keep_alive_words=keep_alive_words(p.keep_alive),
        options=dict(p.options),
        warmups=check_warmups(p.warmups),
        load_timeout_s=p.load_timeout_s,
        min_gpu_percent=p.min_gpu_percent,
        min_tokens_per_s=p.min_tokens_per_s,
        floor_fails=p.floor_fails,
        notes=p.notes,
        changed_at=p.changed_at,
        active_on=active_on,
        pinned_on=pinned_on,
        switching_on=switching_on,
        named_on=named_on,
        keys=keys,
    )
