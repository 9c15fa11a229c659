"""All that running one switch needs, read once when the worker takes it up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from switcher.domain.errors import SwitcherError
from switcher.domain.model_copies import with_model_names
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident, find_installed
from switcher.domain.plans import Item, Plan, Situation, make_plan
from switcher.domain.published_name import PublishedName, plan_published_name
from switcher.domain.specs import Spec
from switcher.domain.states import Strategy
from switcher.models import Host, SwitchEvent
from switcher.queries.desired import spec_of as spec_of
from switcher.queries.history import expected_phases, expected_size, usual_gpu_percent
from switcher.switching.effects import Cancelled, Interrupted


@dataclass(frozen=True, slots=True)
class Course:
    """What was decided before anything was touched: what was there, and what is to leave."""

    before: tuple[Resident, ...]
    strategy: Strategy
    digest: str  # of the new model
    leaving: dict[str, ModelName]  # digest to name, of what this switch itself unloads


@dataclass(slots=True)
class Job:
    """One switch's facts. `plan` makes the plan from a fresh reading; `course` is set once the
    plan is decided on, by this worker or by an earlier one."""

    switch_id: int
    began_at: datetime
    host: str
    base_url: str
    spec: Spec
    from_spec: Spec | None
    from_digest: str
    pinned: tuple[Spec, ...]
    plan_token: str
    plan: Callable[[tuple[Resident, ...], tuple[Installed, ...]], Plan]
    usual_gpu_percent: Callable[[str], int | None]
    course: Course | None = None
    failure: SwitcherError | None = None  # why an earlier worker began to restore, or should have

    @property
    def known(self) -> Course:
        """The course, which every state after CHECKING has."""
        assert self.course is not None, "the plan is written down before anything is touched"
        return self.course


def load_job(switch_id: int) -> Job:
    """Read a switch and its host."""
    row = SwitchEvent.objects.select_related("host").get(pk=switch_id)
    host = row.host
    spec = Spec.from_json(row.to_spec)
    return Job(
        switch_id=row.pk,
        began_at=row.created_at,
        host=host.name,
        base_url=host.base_url,
        spec=spec,
        from_spec=Spec.from_json(row.from_spec) if row.from_spec else None,
        from_digest=row.from_digest,
        pinned=tuple(spec_of(p) for p in host.pinned.all()),
        plan_token=row.plan_token,
        plan=_planner(host, spec, Strategy(row.strategy_asked)),
        usual_gpu_percent=lambda digest: usual_gpu_percent(host.pk, digest),
        course=_course(row),
        failure=_failure(row),
    )


def _course(row: SwitchEvent) -> Course | None:
    if not row.plan or row.before is None:
        return None
    return Course(
        before=tuple(Resident.from_json(r) for r in row.before),
        strategy=Strategy(row.strategy),
        digest=row.to_digest,
        leaving={i["digest"]: ModelName.parse(i["name"]) for i in row.plan["unload"]},
    )


def _failure(row: SwitchEvent) -> SwitcherError | None:
    if row.error and row.error_code != Cancelled.code:
        return Interrupted(row.error)
    return Cancelled(row.cancel_asked_by) if row.cancel_asked_by else None


def _planner(
    host: Host, spec: Spec, asked: Strategy
) -> Callable[[tuple[Resident, ...], tuple[Installed, ...]], Plan]:
    def plan(resident: tuple[Resident, ...], installed: tuple[Installed, ...]) -> Plan:
        return make_plan(situation(host, spec, asked, resident, installed))

    return plan


def situation(
    host: Host,
    spec: Spec,
    asked: Strategy,
    resident: tuple[Resident, ...],
    installed: tuple[Installed, ...],
) -> Situation:
    """All that a plan is made from: what the host holds now, and what is known of the past."""
    target = find_installed(installed, spec.name)
    model_copies = list(host.model_copies.all())
    published = PublishedName.of(host)
    names = {ModelName.parse(c.name): ModelName.parse(c.tag) for c in model_copies}
    resident = with_model_names(resident, names | published.copied)
    pinned = _pinned(host, installed)
    named = published.with_active(spec.name, target.digest if target else "")
    return Situation(
        host=host.name,
        vram_bytes=host.vram_bytes,
        resident=resident,
        active_digest=host.active_digest,
        active_spec=Spec.from_json(host.active_spec) if host.active_spec else None,
        pinned=frozenset(pinned),
        target=target,
        spec=spec,
        target_size=expected_size(host.pk, target, spec),
        asked=asked,
        host_strategy=Strategy(host.strategy),
        history=expected_phases(host.pk, target),
        missing=_missing(host, pinned, resident),
        ours=frozenset(h.digest for h in model_copies),
        usual_gpu_percent=usual_gpu_percent(host.pk, target.digest) if target else None,
        published=named.wanted,
        cannot_publish=plan_published_name(named, installed).barred,
    )


def _pinned(host: Host, installed: tuple[Installed, ...]) -> dict[str, tuple[Spec, Installed]]:
    """The pinned profiles whose models are on the disk, by digest."""
    specs = [spec_of(p) for p in host.pinned.all()]
    found = [(s, row) for s in specs if (row := find_installed(installed, s.name)) is not None]
    return {row.digest: (spec, row) for spec, row in found}


def _missing(
    host: Host, pinned: dict[str, tuple[Spec, Installed]], resident: tuple[Resident, ...]
) -> tuple[Item, ...]:
    here = {r.digest for r in resident}
    items = []
    for digest, (spec, row) in pinned.items():
        if digest not in here:
            size = expected_size(host.pk, row, spec)
            items.append(Item(row.name, digest, size.bytes, "pinned", size.source))
    return tuple(items)
