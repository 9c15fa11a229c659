"""Make the plan of a switch from a reading of the host and from what is recorded about it."""

from __future__ import annotations

from dataclasses import replace

from switcher.domain.drift import Kind
from switcher.domain.model_copies import with_model_names
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident, find_installed
from switcher.domain.plan_inputs import Item, PlanInputs
from switcher.domain.plans import Plan, make_plan
from switcher.domain.published_name import PublishedName, plan_published_name
from switcher.domain.specs import Spec
from switcher.domain.states import Strategy
from switcher.models import Host
from switcher.queries.history import expected_phases, usual_gpu_percent
from switcher.queries.memory import expected_memory, made_of_same_file


def plan_switch(
    host: Host,
    spec: Spec,
    strategy: Strategy,
    resident: tuple[Resident, ...],
    installed: tuple[Installed, ...],
) -> Plan:
    """Plan a switch of the host to a model. `strategy` is the requested one."""
    target = find_installed(installed, spec.name)
    published = PublishedName.of(host)
    copies = list(host.model_copies.all())
    names = {ModelName.parse(copy.name): ModelName.parse(copy.tag) for copy in copies}
    resident = with_model_names(resident, names | published.copied)
    pinned = _installed_pins(host, installed)
    memory = expected_memory(host, target, spec)
    becoming = published.with_active(spec.name, target.digest if target else "")
    made = make_plan(
        PlanInputs(
            host=host.name,
            vram_bytes=host.vram_bytes,
            resident=resident,
            active_digest=host.active_digest,
            active_spec=Spec.from_json(host.active_spec) if host.active_spec else None,
            pinned=frozenset(pinned),
            target=target,
            spec=spec,
            target_size=memory.size,
            asked=strategy,
            host_strategy=Strategy(host.strategy),
            history=expected_phases(host.pk, target),
            missing=_missing_pins(host, pinned, resident),
            ours=frozenset(copy.digest for copy in copies),
            usual_gpu_percent=usual_gpu_percent(host.pk, target.digest) if target else None,
            published=becoming.wanted,
            cannot_publish=plan_published_name(becoming, installed).barred,
            allows_cloud=host.allows_cloud,
            context=memory.context,
            facts=memory.facts,
            seen=memory.seen,
            max_loaded=_max_loaded(host, resident),
            parallel_requests=host.parallel_requests or 0,
            same_file=made_of_same_file(target.digest, (r.digest for r in resident))
            if target
            else frozenset(),
        )
    )
    return replace(made, blocked=made.blocked or _same_server(host))


def _same_server(host: Host) -> str:
    """Return why nothing is switched while another host is the same server; empty if none is."""
    drifts = host.drifts.filter(kind=Kind.SAME_SERVER.value, ended_at=None)
    return drifts.values_list("text", flat=True).first() or ""


def _max_loaded(host: Host, resident: tuple[Resident, ...]) -> int | None:
    """Return how many models the server keeps loaded at once: as set, else as learned, unless it
    holds more by now."""
    learned = host.learned_max_loaded
    return host.max_loaded or (learned if learned and learned >= len(resident) else None)


def _installed_pins(
    host: Host, installed: tuple[Installed, ...]
) -> dict[str, tuple[Spec, Installed]]:
    """Return the pinned profiles whose models are installed, by digest."""
    specs = [Spec.of_profile(profile) for profile in host.pinned.all()]
    found = [(s, row) for s in specs if (row := find_installed(installed, s.name)) is not None]
    return {row.digest: (spec, row) for spec, row in found if not row.is_cloud}


def _missing_pins(
    host: Host, pinned: dict[str, tuple[Spec, Installed]], resident: tuple[Resident, ...]
) -> tuple[Item, ...]:
    loaded = {r.digest for r in resident}
    items = []
    for digest, (spec, row) in pinned.items():
        if digest not in loaded:
            size = expected_memory(host, row, spec).size
            items.append(Item(row.name, digest, size.bytes, "pinned", size.source, size.bytes))
    return tuple(items)
