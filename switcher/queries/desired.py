"""What is desired of each host, for who compares it with what the host holds."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import OuterRef, Subquery

from switcher.domain.drift import Desired, Recorded, Wanted
from switcher.domain.observed import Resident, full_name
from switcher.domain.published_name import PublishedName
from switcher.domain.specs import Spec, check_warmups
from switcher.domain.states import State
from switcher.models import Drift, Host, ModelCopy, ModelProfile, Pin, SwitchEvent

WATCHER = "watcher"  # the source of switches that the watcher asked for


@dataclass(frozen=True, slots=True)
class HostCase:
    """One host: what is desired of it, what the watcher may do about it, and which drift is
    known of."""

    host_id: int
    host: str
    base_url: str
    desired: Desired
    active_digest: str
    active_since: datetime | None
    policy: str  # report or repair
    repairs_an_hour: int
    handled: frozenset[str]  # digests that a copy of ours reaches
    name_is_due: bool  # the published name that is set was not carried out yet
    open: tuple[Recorded, ...]

    @property
    def repairs(self) -> bool:
        return self.policy == "repair"


def host_cases() -> dict[int, HostCase]:
    """Every host's, by its id: four queries for all of them."""
    model_copies: dict[int, list[ModelCopy]] = defaultdict(list)
    for handle in ModelCopy.objects.filter(host__removed_at=None):
        model_copies[handle.host_id].append(handle)
    pinned: dict[int, list[Wanted]] = defaultdict(list)
    for pin in Pin.objects.filter(host__removed_at=None).select_related("profile"):
        pinned[pin.host_id].append(Wanted("", spec_of(pin.profile)))
    known: dict[int, list[Recorded]] = defaultdict(list)
    for row in Drift.objects.filter(ended_at=None).order_by("id"):
        known[row.host_id].append(Recorded.of(row))
    return {
        host.pk: _case(host, pinned[host.pk], model_copies[host.pk], known[host.pk])
        for host in _hosts()
    }


def _hosts() -> Any:
    """With the figures of the last switch that loaded what is active, and what was loaded at the
    end of the last one."""
    loaded = SwitchEvent.objects.filter(
        host=OuterRef("pk"),
        state=State.ACTIVE.value,
        to_digest=OuterRef("active_digest"),
        figures__has_key="gpu_percent",
    )
    ended = SwitchEvent.objects.filter(host=OuterRef("pk"), state=State.ACTIVE.value)
    return Host.objects.filter(removed_at=None).annotate(
        loaded_figures=Subquery(loaded.order_by("-id").values("figures")[:1]),
        left_behind=Subquery(ended.order_by("-id").values("after")[:1]),
    )


def _case(
    host: Any, pinned: list[Wanted], model_copies: list[ModelCopy], known: list[Recorded]
) -> HostCase:
    names = {full_name(h.name): full_name(h.tag) for h in model_copies}
    if host.published_as:
        names[host.published_as] = host.published_tag
    named = PublishedName.of(host)
    verified = {r["digest"]: Resident.from_json(r) for r in host.left_behind or ()}
    return HostCase(
        host_id=host.pk,
        host=host.name,
        base_url=host.base_url,
        desired=Desired(
            host.name,
            _active(host),
            tuple(pinned),
            names,
            verified,
            published=named,
        ),
        name_is_due=named.due,
        active_digest=host.active_digest,
        active_since=host.active_since,
        policy=host.drift_policy,
        repairs_an_hour=host.repairs_an_hour,
        handled=frozenset(h.digest for h in model_copies),
        open=tuple(known),
    )


def _active(host: Any) -> Wanted | None:
    if not host.active_digest:
        return None
    stored = host.active_spec
    figures = host.loaded_figures or {}
    return Wanted(
        digest=host.active_digest,
        spec=Spec.from_json(stored) if stored else Spec("", host.active_tag, host.keep_alive),
        active=True,
        gpu_percent=figures.get("gpu_percent"),
        context_length=figures.get("context_length") or 0,
    )


def spec_of(profile: ModelProfile) -> Spec:
    """A profile frozen for one switch."""
    return Spec(
        profile=profile.name,
        tag=profile.tag,
        keep_alive=profile.keep_alive,
        options=dict(profile.options),
        warmups=check_warmups(profile.warmups),
        load_timeout_s=profile.load_timeout_s,
        min_gpu_percent=profile.min_gpu_percent,
        min_tokens_per_s=profile.min_tokens_per_s,
        floor_fails=profile.floor_fails,
    )


@dataclass(frozen=True, slots=True)
class Repairs:
    """What the watcher has tried on a host, and what it would try again."""

    host: str
    allowed: bool  # the policy is still to repair
    active_since: datetime | None
    count: int  # within the last hour, and since somebody else switched
    first_at: datetime | None
    outcomes: tuple[str, ...]
    profile: str
    model: str
    keep_alive: str


def repairs(host_id: int, now: datetime) -> Repairs | None:
    """None where nothing is active, or the host is gone."""
    host = Host.objects.filter(pk=host_id, removed_at=None).select_related("active_profile").first()
    if host is None or not host.active_tag:
        return None
    rows = SwitchEvent.objects.filter(host_id=host_id)
    theirs = rows.exclude(source=WATCHER).order_by("-id").values_list("id", flat=True).first()
    ours = rows.filter(source=WATCHER, id__gt=theirs or 0, created_at__gt=now - timedelta(hours=1))
    tried = list(ours.order_by("id").values_list("created_at", "outcome"))
    profile = host.active_profile
    # A profile whose model was edited since is not what is active.
    same = profile is not None and full_name(profile.tag) == full_name(host.active_tag)
    return Repairs(
        host=host.name,
        allowed=host.drift_policy == "repair",
        active_since=host.active_since,
        count=len(tried),
        first_at=tried[0][0] if tried else None,
        outcomes=tuple(outcome for _, outcome in tried),
        profile=profile.name if profile is not None and same else "",
        model=host.active_tag,
        keep_alive=(host.active_spec or {}).get("keep_alive", ""),
    )
