"""Profiles and what uses them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from switcher.domain.clock import Clock, system
from switcher.domain.errors import NotFound
from switcher.domain.model_names import ModelName
from switcher.domain.specs import WarmUp, check_warmups
from switcher.domain.states import OPEN
from switcher.models import ApiKey, GatewayName, Host, ModelProfile, Pin, Reading, SwitchEvent
from switcher.queries.from_rows import from_row, grouped
from switcher.queries.hosts import find_named


@dataclass(frozen=True, slots=True)
class ProfileRow:
    """A profile with its uses. `active_on` and the like are names of hosts; on those in `named_on`,
    an alias stands for it. `keys` are the valid API keys that are bound to it.
    """

    id: int
    name: str
    tag: str
    keep_alive: str
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
    contexts: tuple[tuple[str, int], ...] = ()  # see _contexts

    @property
    def model(self) -> str:
        return ModelName.parse(self.tag).short

    @property
    def used_on(self) -> tuple[str, ...]:
        """Return the names of all hosts that use it."""
        used = {*self.active_on, *self.pinned_on, *self.switching_on, *self.named_on}
        return tuple(sorted(used))


def profile_list(clock: Clock = system) -> tuple[ProfileRow, ...]:
    """Return all profiles by name, with their uses, in eight queries."""
    return _rows(ModelProfile.objects.all(), clock)


def profile(name: str, clock: Clock = system) -> ProfileRow:
    """Return one profile by its name. Raises NotFound."""
    row = find_named(ModelProfile.objects.all(), name)
    if row is None:
        raise NotFound(f"There is no profile named {name!r}.")
    return _rows([row], clock)[0]


def keep_alives() -> list[tuple[str, str, str]]:
    """Return name, tag and keep-alive of all profiles, by name."""
    return list(ModelProfile.objects.values_list("name", "tag", "keep_alive"))


def profile_names() -> tuple[str, ...]:
    return tuple(ModelProfile.objects.values_list("name", flat=True))


def _rows(profiles: Iterable[ModelProfile], clock: Clock) -> tuple[ProfileRow, ...]:
    hosts = Host.objects.filter(removed_at=None).exclude(active_profile=None)
    pins = Pin.objects.filter(host__removed_at=None)
    switches = SwitchEvent.objects.filter(state__in=OPEN).exclude(to_profile_id=None)
    names = GatewayName.objects.filter(host__removed_at=None)
    working = ApiKey.working(clock.now()).order_by("name", "id").prefetch_related("profiles")
    uses: dict[str, Mapping[Any, tuple[str, ...]]] = {
        "active_on": grouped(hosts.values_list("active_profile_id", "name")),
        "pinned_on": grouped(pins.values_list("profile_id", "host__name")),
        "switching_on": grouped(switches.values_list("to_profile_id", "host__name")),
        "named_on": grouped(names.values_list("profile_id", "host__name")),
        "keys": grouped((p.pk, str(key)) for key in working for p in key.profiles.all()),
    }
    readings = list(
        Reading.objects.filter(host__removed_at=None).values_list("host__name", "resident")
    )
    return tuple(
        from_row(
            ProfileRow,
            row,
            contexts=_contexts(row, readings, uses),
            options=dict(row.options),
            warmups=check_warmups(row.warmups),
            **{name: used.get(row.pk, ()) for name, used in uses.items()},
        )
        for row in profiles
    )


def _contexts(
    profile: ModelProfile,
    readings: Iterable[tuple[str, Any]],
    uses: Mapping[str, Mapping[Any, tuple[str, ...]]],
) -> tuple[tuple[str, int], ...]:
    """Return, for a profile without `num_ctx`, the context length that its model was last seen
    loaded with on each host where the profile is active or pinned: the server chooses it."""
    if profile.options.get("num_ctx"):
        return ()
    hosts = {name for use in ("active_on", "pinned_on") for name in uses[use].get(profile.pk, ())}
    model = ModelName.parse(profile.tag)
    return tuple(
        (host, row["context_length"])
        for host, resident in readings
        for row in resident
        if host in hosts and row["context_length"] and ModelName.parse(row["name"]) == model
    )
