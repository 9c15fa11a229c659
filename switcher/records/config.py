"""Hosts and profiles, as admins set them. Each change appends an entry with before and after."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import ProtectedError

from switcher.audit.ledger import Actor, append, writing
from switcher.domain.addresses import place_of
from switcher.domain.clock import Clock, system
from switcher.domain.errors import BadRequest, Conflict, NotFound
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, find_installed, is_cloud
from switcher.domain.specs import check_keeps_active
from switcher.domain.states import OPEN
from switcher.models import (
    ApiKey,
    GatewayName,
    Host,
    Lease,
    ModelProfile,
    Pin,
    Preference,
    Reading,
    SwitchEvent,
)
from switcher.records.memory import forget_sizes
from switcher.records.names import check_profile

PROFILE_FIELDS = (
    "name",
    "tag",
    "keep_alive",
    "options",
    "warmups",
    "load_timeout_s",
    "min_gpu_percent",
    "min_tokens_per_s",
    "floor_fails",
    "notes",
)
HOST_FIELDS = (
    "name",
    "base_url",
    "vram_bytes",
    "simulated",
    "strategy",
    "keep_alive",
    "drift_policy",
    "repairs_an_hour",
    "gateway_policy",
    "published_name",
    "allows_cloud",
    "max_loaded",
    "parallel_requests",
    "mac_address",
)


def put_profile(
    values: Mapping[str, Any], actor: Actor, profile_id: int | None = None, clock: Clock = system
) -> str:
    """Add a profile from checked values, or change the one with this id. Return its name."""
    with writing():
        profile = ModelProfile()
        if profile_id is not None:
            found = ModelProfile.objects.select_for_update().filter(pk=profile_id).first()
            if found is None:
                raise NotFound("There is no such profile any more.")
            profile = found
        for name in PROFILE_FIELDS:
            if name in values:
                setattr(profile, name, values[name])
        return save_profile(profile, actor, clock).name


def save_profile(profile: ModelProfile, actor: Actor, clock: Clock = system) -> ModelProfile:
    """Add or change a profile."""
    with writing():
        before = _facts(ModelProfile, profile.pk, PROFILE_FIELDS)
        try:
            with transaction.atomic():
                profile.save()
        except IntegrityError as exc:
            raise BadRequest(f"There is a profile named {profile.name} already.", "name") from exc
        difference = _difference(before, {f: getattr(profile, f) for f in PROFILE_FIELDS})
        if difference["after"].keys() & {"tag", "options"}:
            check_profile(profile)
        if "tag" in difference["after"]:
            if profile.pinned_on.filter(removed_at=None):
                _check_runs_here(profile, "tag")
            Pin.objects.filter(profile=profile).update(digest="")
        if "keep_alive" in difference["after"] and profile.pinned_on.filter(removed_at=None):
            check_keeps_active(profile.keep_alive, f"{profile.name} is pinned.")
        if difference["after"]:
            kind = "profile.changed" if before else "profile.added"
            old, new = (_without_prompts(difference[side]) for side in ("before", "after"))
            append(kind, actor, clock=clock, profile=profile.name, before=old, after=new)
    return profile


def delete_profile(profile_id: int, actor: Actor, clock: Clock = system) -> None:
    """Delete a profile. Raises NotFound, Conflict if something uses it."""
    with writing():
        profile = ModelProfile.objects.filter(pk=profile_id).first()
        if profile is None:
            raise NotFound("There is no such profile.")
        _check_unused(profile, clock)
        Host.objects.exclude(removed_at=None).filter(active_profile=profile).update(
            active_profile=None
        )
        before = _facts(ModelProfile, profile.pk, PROFILE_FIELDS)
        try:
            profile.delete()
        except ProtectedError as exc:
            raise Conflict(f"{profile.name} is in use.") from exc
        kept = _without_prompts(before)
        append("profile.deleted", actor, clock=clock, profile=before["name"], before=kept)


def _check_unused(profile: ModelProfile, clock: Clock) -> None:
    users = [h.name for h in Host.objects.filter(active_profile=profile, removed_at=None)]
    users += [h.name for h in Host.objects.filter(pinned=profile, removed_at=None)]
    open_on = SwitchEvent.objects.filter(to_profile_id=profile.pk, state__in=OPEN)
    users += [s.host.name for s in open_on.select_related("host")]
    named = GatewayName.objects.filter(profile=profile, host__removed_at=None)
    users += [n.host.name for n in named.select_related("host")]
    if users:
        raise Conflict(f"{profile.name} is in use on {', '.join(sorted(set(users)))}.")
    keys = [str(key) for key in ApiKey.working(clock.now()).filter(profiles=profile)]
    if keys:
        raise Conflict(
            f"These keys are bound to {profile.name}: {', '.join(keys)}. Turn them off first, "
            "and make new ones if their clients should go on."
        )


def put_host(
    values: Mapping[str, Any],
    actor: Actor,
    host_id: int | None = None,
    *,
    pinned: Iterable[str] | None = None,
    default: bool = False,
    clock: Clock = system,
) -> int:
    """Add a host from checked values, or change the one with this id. Return its id.

    `pinned` are names of profiles; None leaves them as they are.
    """
    with writing():
        host = Host()
        if host_id is not None:
            found = Host.objects.select_for_update().filter(pk=host_id, removed_at=None).first()
            if found is None:
                raise NotFound("There is no such host any more.")
            host = found
        for name in HOST_FIELDS:
            if name in values:
                setattr(host, name, values[name])
        save_host(host, actor, clock)
        if pinned is not None:
            profiles = ModelProfile.objects.filter(name__in=list(pinned))
            set_pinned(host, list(profiles), actor, clock)
        if default and not host.is_default:
            make_default(host, actor, clock)
    return host.pk


def save_host(host: Host, actor: Actor, clock: Clock = system) -> Host:
    """Add or change a host. The first one becomes the default."""
    with writing():
        before = _facts(Host, host.pk, HOST_FIELDS)
        if not before or before["base_url"] != host.base_url:
            _check_address_is_free(host)
        if before and before["base_url"] != host.base_url:
            _leave_address(host, before["name"], actor, clock)
        if before.get("allows_cloud") and not host.allows_cloud:
            _check_no_cloud_model(host)
        if not Host.objects.filter(is_default=True, removed_at=None).exclude(pk=host.pk).exists():
            Host.objects.filter(is_default=True).exclude(pk=host.pk).update(is_default=False)
            host.is_default = True
        try:
            with transaction.atomic():
                _save_host_row(host)
        except IntegrityError as exc:
            raise BadRequest(f"There is a host named {host.name} already.", "name") from exc
        Lease.objects.get_or_create(host=host)
        difference = _difference(before, {f: getattr(host, f) for f in HOST_FIELDS})
        if difference["after"]:
            kind = "host.changed" if before else "host.added"
            append(kind, actor, host=host.name, clock=clock, **difference)
    return host


def _check_address_is_free(host: Host) -> None:
    """Refuse an address of another host's server, in whatever spelling: two desired states would
    fight over one memory."""
    place = place_of(host.base_url)
    for other in Host.objects.filter(removed_at=None).exclude(pk=host.pk):
        if place_of(other.base_url) == place:
            raise BadRequest(
                f"{host.base_url} is host {other.name} already, at {other.base_url}.", "base_url"
            )


def _check_no_cloud_model(host: Host) -> None:
    """Raise Conflict if the active model is a cloud model: prompts would go on leaving."""
    name = ModelName.parse(host.active_tag)
    if is_cloud(name, find_installed(installed_on(host), name)):
        raise Conflict(
            f"{host.active_tag} is active on {host.name}, and it is a cloud model. Switch to "
            "another model first."
        )


def installed_on(host: Host) -> tuple[Installed, ...]:
    """Return what was last seen installed on the host."""
    rows = Reading.objects.filter(host=host).values_list("installed", flat=True).first()
    return tuple(Installed.from_json(row) for row in rows or ())


def _leave_address(host: Host, name: str, actor: Actor, clock: Clock) -> None:
    """Forget what was seen at the old address. Raises Conflict while a switch runs, since it must
    end at the address where it began."""
    _check_not_switching(host, name)
    Reading.objects.filter(host=host).delete()
    _forget_access(host, name, actor, clock)
    forget_sizes(host.pk, clock.now())
    Pin.objects.filter(host=host).update(digest="")
    nothing = {"published_as": "", "published_tag": "", "published_digest": ""}
    Host.objects.filter(pk=host.pk).update(**nothing, learned_max_loaded=None)


def _forget_access(host: Host, name: str, actor: Actor, clock: Clock) -> None:
    """Forget the credentials of the old address, which whoever enters another one must not get
    sent there, and that its certificate was not verified."""
    if not host.sealed_credentials and host.verify_tls:
        return
    host.sealed_credentials, host.verify_tls = "", True
    Host.objects.filter(pk=host.pk).update(sealed_credentials="", verify_tls=True)
    after = {"credentials": [], "verify_tls": True}
    append("host.access", actor, host=name, clock=clock, after=after)


def _check_not_switching(host: Host, name: str) -> None:
    if SwitchEvent.objects.filter(host=host, state__in=OPEN).exists():
        raise Conflict(f"{name} is switching. Wait for it or cancel it first.")


def _save_host_row(host: Host) -> None:
    """Save only the columns that an admin sets: a form must not write back an outdated active
    model."""
    if host.pk is None:
        host.save()
    else:
        host.save(update_fields=[*HOST_FIELDS, "is_default"])


def set_pinned(
    host: Host, profiles: list[ModelProfile], actor: Actor, clock: Clock = system
) -> None:
    """Set which profiles are kept resident beside the active one."""
    with writing():
        before = sorted(host.pinned.values_list("name", flat=True))
        after = sorted(p.name for p in profiles)
        if before != after:
            for profile in profiles:
                _check_can_be_pinned(profile)
            host.pinned.set(profiles)
            append("host.preloaded", actor, host=host.name, clock=clock, before=before, after=after)


def _check_can_be_pinned(profile: ModelProfile) -> None:
    _check_runs_here(profile, "pinned")
    try:
        check_keeps_active(profile.keep_alive, f"It comes from profile {profile.name}.")
    except BadRequest as exc:
        raise BadRequest(exc.text, "pinned") from exc


def _check_runs_here(profile: ModelProfile, field: str) -> None:
    if ModelName.parse(profile.tag).is_cloud:
        text = f"{profile.tag} is a cloud model: nothing of it could be kept loaded."
        raise BadRequest(text, field)


def make_default(host: Host, actor: Actor, clock: Clock = system) -> None:
    """Make this the host that is used when a request names none."""
    with writing():
        old = Host.objects.filter(is_default=True, removed_at=None)
        before = old.values_list("name", flat=True).first() or ""
        Host.objects.filter(is_default=True).update(is_default=False)
        Host.objects.filter(pk=host.pk).update(is_default=True)
        append("host.default", actor, host=host.name, clock=clock, before=before, after=host.name)


def remove_host(host_id: int, actor: Actor, clock: Clock = system) -> None:
    """Remove a host from the board. Its history stays, and nothing on the host is touched."""
    with writing():
        host = Host.objects.select_for_update().filter(pk=host_id, removed_at=None).first()
        if host is None:
            raise NotFound("There is no such host.")
        _check_not_switching(host, host.name)
        was_default = host.is_default
        host.removed_at = clock.now()
        host.is_default = False
        host.save(update_fields=["removed_at", "is_default"])
        host.pinned.clear()
        before = _facts(Host, host.pk, HOST_FIELDS)
        append("host.removed", actor, host=host.name, clock=clock, before=before)
        heir = Host.objects.filter(removed_at=None).first() if was_default else None
        if heir is not None:
            make_default(heir, actor, clock)


def save_theme(user_id: int, theme: str) -> None:
    """Save a person's choice of colours, which needs no audit entry."""
    if theme not in {"system", "light", "dark"}:
        raise BadRequest("Choose system, light or dark.", "theme")
    Preference.objects.update_or_create(user_id=user_id, defaults={"theme": theme})


def _without_prompts(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with a hash in place of each prompt: the trail holds no prompts, but shows
    that one was changed."""
    if "warmups" not in values:
        return values
    hashed = [
        {**row, "prompt": f"sha256:{hashlib.sha256(row['prompt'].encode()).hexdigest()}"}
        for row in values["warmups"]
    ]
    return values | {"warmups": hashed}


def _facts(model: type[Any], pk: int | None, fields: tuple[str, ...]) -> dict[str, Any]:
    if pk is None:
        return {}
    return model._default_manager.filter(pk=pk).values(*fields).first() or {}


def _difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    keys = [k for k in after if before.get(k) != after[k]]
    return {
        "before": {k: before[k] for k in keys if k in before},
        "after": {k: after[k] for k in keys},
    }
