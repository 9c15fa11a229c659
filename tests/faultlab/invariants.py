"""The invariants: what must hold once a schedule has come to rest, whatever happened before."""

from __future__ import annotations

from itertools import pairwise

from switcher.domain.model_copies import is_copy_name
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Resident, find_digest
from switcher.domain.states import ENDED, State, can_move
from switcher.models import AuditEntry, Host, ModelCopy, SwitchEvent
from tests.faultlab.world import LATE_S, Violation, World


def check(world: World) -> list[Violation]:
    """Return all violations: those that were found along the way, and those that are found now."""
    rows = world.rows()
    for row in rows:
        _check_one_end(world, row)
        _check_story(world, row)
    _check_host_row(world)
    _check_copies(world)
    _check_published(world, rows)
    if all(row.state in ENDED for row in rows):
        _check_host(world, rows)
        _check_no_leftovers(world, rows[-1])
    return world.violations


def _check_one_end(world: World, row: SwitchEvent) -> None:
    if row.state not in ENDED or row.ended_at is None:
        world.violate("one end each", f"switch {row.pk} still is {row.state}")
    ends = [e.state for e in world.ends if e.switch_id == row.pk]
    if len(ends) > 1:
        world.violate("one end each", f"switch {row.pk} ended as {', '.join(ends)}")


def _check_story(world: World, row: SwitchEvent) -> None:
    """Check that the audit entries tell the states of the switch, in an order that the transition
    table allows."""
    entries = list(AuditEntry.objects.filter(switch=row).order_by("pk"))
    told = [State(e.kind.removeprefix("switch.")) for e in entries if _state(e.kind)]
    rule = "the entries tell the same story"
    if not told or told[0] is not State.QUEUED or told[-1] != row.state:
        world.violate(rule, f"{row.state}, told as {', '.join(told)}")
    if wrong := [f"{a} to {b}" for a, b in pairwise(told) if not can_move(a, b)]:
        world.violate(rule, f"moves that are none: {', '.join(wrong)}")
    if sum(s in ENDED for s in told) != (row.state in ENDED):
        world.violate(rule, f"ends told: {', '.join(told)}")
    phases = [p["phase"] for p in row.phases]
    if phases != [s for s in told[1:] if s not in ENDED]:
        world.violate(rule, f"phases {', '.join(phases)}, told {', '.join(told)}")
    activated = sum(e.kind == "host.activated" for e in entries)
    open_after = row.state in (State.UNLOADING, State.ACTIVATING)
    if not open_after and activated != (row.state == State.ACTIVE and not _was_active(row)):
        world.violate(rule, f"{row.state}, activated {activated} times")
    fences = [e.facts.get("fence", 0) for e in entries if e.kind != "switch.cancel-asked"]
    if fences != sorted(fences):
        world.violate(rule, f"fences go back: {fences}")
    times = [e.at for e in entries]
    if times != sorted(times) and not world.clock.was_set:
        world.violate(rule, f"times go back: {times}")


def _state(kind: str) -> bool:
    return kind.startswith("switch.") and kind.removeprefix("switch.") in set(State)


def _was_active(row: SwitchEvent) -> bool:
    return bool(row.figures.get("already_active"))


def _check_host_row(world: World) -> None:
    """Check that the configuration is what the last activation recorded, and that nothing else
    changed it."""
    host = Host.objects.get(pk=world.host_id)
    last = AuditEntry.objects.filter(kind="host.activated", host=host.name).order_by("pk").last()
    digest = last.facts["digest"] if last is not None else ""
    if host.active_digest != digest:
        text = f"the row says {host.active_digest[:12]}, the last activation {digest[:12]}"
        world.violate("the entries tell the same story", text)


def _check_copies(world: World) -> None:
    """Check that every model copy on the host is recorded as ours, so that none stays there
    forever."""
    copies = {i.name.full for i in world.host.installed() if is_copy_name(i.name)}
    ours = ModelCopy.objects.filter(host_id=world.host_id).values_list("name", flat=True)
    if unknown := copies - set(ours):
        world.violate("each copy is known to be ours", ", ".join(sorted(unknown)))


def _check_published(world: World, rows: list[SwitchEvent]) -> None:
    """Check that the published name points to the active model once a switch has ended, unless the
    switch warns that it does not. No other client moves the name in the lab."""
    host = Host.objects.get(pk=world.host_id)
    found = {n: m.digest for n, m in world.host.server.catalog.listed()}
    recorded = host.published_digest  # empty if pointing it was interrupted
    if recorded and found.get(host.published_as) != recorded:
        text = f"{host.published_as} is recorded as {recorded[:12]}"
        world.violate("the published name means what is recorded of it", text)
    if any(row.state not in ENDED for row in rows) or host.degraded or rows[-1].warnings:
        return
    name = ModelName.parse(host.published_name).full
    means = found.get(name, "")
    if means != host.active_digest:
        text = f"it means {means[:12] or 'nothing'}; {host.active_tag or 'no model'} is active"
        world.violate("the published name means the active model", text)


def _check_host(world: World, rows: list[SwitchEvent]) -> None:
    """Check that the model recorded as active is loaded, unless the host is marked degraded or
    something outside the switch removed the model later."""
    host = Host.objects.get(pk=world.host_id)
    digest = host.active_digest
    if not digest or host.degraded or digest in world.host.digests():
        return
    since = _verified_at(world, rows, digest)
    gone_at = world.host.gone_at.get(digest, world.t)
    for outside in world.host.outside:
        concerns = outside.digests is None or digest in outside.digests
        if concerns and since - LATE_S <= outside.at <= gone_at + 1.0:
            return
    there = ", ".join(r.name.short for r in world.host.resident()) or "nothing"
    text = f"{host.active_tag} is recorded as active, verified at {since:.3f} s; {there} is there"
    world.violate("recorded is physical", text)


def _verified_at(world: World, rows: list[SwitchEvent], digest: str) -> float:
    """Return when a switch that speaks for the active model last read the host; without such a
    switch, when the schedule began."""
    for row in reversed(rows):
        end = next((e for e in world.ends if e.switch_id == row.pk), None)
        if end is None or end.looked_at is None:
            continue
        restored = row.state in (State.ROLLED_BACK, State.CANCELLED) and bool(row.plan)
        before = find_digest([Resident.from_json(r) for r in row.before or ()], digest)
        if row.state == State.ACTIVE or (restored and before is not None and _touched(row)):
            return end.looked_at
    return world.began


def _touched(row: SwitchEvent) -> bool:
    return any(p["phase"] == State.RESTORING for p in row.phases)


def _check_no_leftovers(world: World, row: SwitchEvent) -> None:
    """Check that what should have left has left: the old model after a success, the new one after a
    restore."""
    if row.warnings or row.degraded or not row.plan or _was_active(row):
        return
    before = {r["digest"] for r in row.before or ()}
    if row.state == State.ACTIVE:
        leaves = {i["digest"] for i in row.plan["unload"]}
    elif _touched(row):
        leaves = {row.to_digest} - before
    else:
        return
    left = (leaves & world.host.digests()) - world.host.foreign - _came_later(world, row)
    if left:
        names = ", ".join(r.name.short for r in world.host.resident() if r.digest in left)
        world.violate("nothing is left over", f"{row.state}, but {names} is still there")


def _came_later(world: World, row: SwitchEvent) -> set[str]:
    """Return what was loaded after the last reading, for a process that was paused while its lease
    ran out. Its open connection kept the load going, which nobody could see (fact 8). The record
    was true when it was written, and reporting the model as drift is the watcher's job."""
    looked_at = [e.looked_at for e in world.ends if e.switch_id == row.pk and e.looked_at]
    return {d for d, at in world.host.late_at.items() if looked_at and at > looked_at[-1]}
