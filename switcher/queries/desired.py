"""The desired state of each host, to compare with the observed one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery

from switcher.domain.drift import Desired, DesiredModel, OpenDrift
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Resident
from switcher.domain.published_name import PublishedName
from switcher.domain.servers import Server
from switcher.domain.specs import Spec
from switcher.domain.states import State
from switcher.models import Host, ModelCopy, Pin, SwitchEvent
from switcher.queries.drifts import open_by_host
from switcher.queries.from_rows import grouped
from switcher.queries.hosts import active_spec
from switcher.queries.model_copies import ModelCopyRow, copy_of

Drifts = tuple[OpenDrift, ...]
WATCHER = "watcher"  # the source of switches that the watcher asked for


@dataclass(frozen=True, slots=True)
class WatchedHost:
    """A host between switches: its desired state, what the watcher may do about drift, the model
    copies kept there, and the open drift.
    """

    host_id: int
    host: str
    base_url: str
    server: Server
    desired: Desired
    active_since: datetime | None
    policy: str  # report or repair
    repairs_an_hour: int
    model_copies: tuple[ModelCopyRow, ...]
    name_is_due: bool  # the published name is not set on the server yet
    drifts: tuple[OpenDrift, ...]

    @property
    def repairs(self) -> bool:
        return self.policy == "repair"

    @property
    def active_digest(self) -> str:
        return self.desired.active.digest if self.desired.active else ""

    @property
    def copied(self) -> frozenset[str]:
        """Return the digests of the models that have a model copy."""
        return frozenset(copy.digest for copy in self.model_copies)


def watched_hosts() -> dict[int, WatchedHost]:
    """Return every host by its id, in four queries."""
    return _watched(Host.objects.filter(removed_at=None))


def watched_host(host_id: int) -> WatchedHost | None:
    """Return one host; None if it was removed."""
    return _watched(Host.objects.filter(pk=host_id, removed_at=None)).get(host_id)


def _watched(hosts: QuerySet[Host]) -> dict[int, WatchedHost]:
    rows = list(_with_last_switch(hosts))
    ids = [row.pk for row in rows]
    kept = ModelCopy.objects.filter(host_id__in=ids).order_by("id")
    pinned = Pin.objects.filter(host_id__in=ids).select_related("profile")
    copies = grouped((row.host_id, copy_of(row)) for row in kept)
    pins = grouped((row.host_id, DesiredModel("", Spec.of_profile(row.profile))) for row in pinned)
    drifts = open_by_host(ids)
    return {row.pk: _host(row, copies[row.pk], pins[row.pk], drifts[row.pk]) for row in rows}


def figures_of_active() -> Subquery:
    """Return, for a query of hosts, the figures of the last switch that loaded the active model."""
    loaded = SwitchEvent.objects.filter(
        host=OuterRef("pk"),
        state=State.ACTIVE.value,
        to_digest=OuterRef("active_digest"),
        figures__has_key="gpu_percent",
    )
    return Subquery(loaded.order_by("-id").values("figures")[:1])


def _with_last_switch(hosts: QuerySet[Host]) -> QuerySet[Any]:
    """Annotate hosts with the figures of the last switch that loaded the active model, and with the
    models that were loaded at the end of the last switch.
    """
    ended = SwitchEvent.objects.filter(host=OuterRef("pk"), state=State.ACTIVE.value)
    return hosts.annotate(
        loaded_figures=figures_of_active(),
        left_behind=Subquery(ended.order_by("-id").values("after")[:1]),
    )


def _host(
    row: Any, copies: tuple[ModelCopyRow, ...], pins: tuple[DesiredModel, ...], drifts: Drifts
) -> WatchedHost:
    published = PublishedName.of(row)
    names = {copy.name: copy.tag for copy in copies} | published.copied
    return WatchedHost(
        host_id=row.pk,
        host=row.name,
        base_url=row.base_url,
        server=row.server,
        desired=Desired(
            row.name,
            _active(row),
            pins,
            names,
            {r["digest"]: Resident.from_json(r) for r in row.left_behind or ()},
            published=published,
        ),
        active_since=row.active_since,
        policy=row.drift_policy,
        repairs_an_hour=row.repairs_an_hour,
        model_copies=copies,
        name_is_due=published.due,
        drifts=drifts,
    )


def _active(row: Any) -> DesiredModel | None:
    if not row.active_digest:
        return None
    figures = row.loaded_figures or {}
    return DesiredModel(
        digest=row.active_digest,
        spec=active_spec(row),
        active=True,
        gpu_percent=figures.get("gpu_percent"),
        context_length=figures.get("context_length") or 0,
    )


@dataclass(frozen=True, slots=True)
class Repairs:
    """The repairs that the watcher has tried on a host, and the model that a repair would load."""

    host: str
    allowed: bool  # allowed by the policy
    active_since: datetime | None
    count: int  # within the last hour and since the last switch by somebody else
    first_at: datetime | None
    outcomes: tuple[str, ...]
    profile: str
    model: str
    keep_alive: str
    num_ctx: str


def repairs(host_id: int, now: datetime) -> Repairs | None:
    """Return the repairs of a host; None if nothing is active or the host was removed."""
    host = Host.objects.filter(pk=host_id, removed_at=None).select_related("active_profile").first()
    if host is None or not host.active_tag:
        return None
    rows = SwitchEvent.objects.filter(host_id=host_id)
    theirs = rows.exclude(source=WATCHER).order_by("-id").values_list("id", flat=True).first()
    ours = rows.filter(source=WATCHER, id__gt=theirs or 0, created_at__gt=now - timedelta(hours=1))
    tried = list(ours.order_by("id").values_list("created_at", "outcome"))
    profile = host.active_profile
    # A profile whose model has been edited since is not what is active.
    same = profile is not None and ModelName.parse(profile.tag) == ModelName.parse(host.active_tag)
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
        num_ctx=str(((host.active_spec or {}).get("options") or {}).get("num_ctx") or ""),
    )
