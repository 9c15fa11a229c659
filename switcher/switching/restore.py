"""Compensation: bring back the models that were resident before, verify that, and report the
result.

Restoring uses ordinary steps with the same guards (rule 11). It has not ended until a fresh reading
shows the old models. If it fails too, the host is marked degraded, and the outcome says what it
holds.
"""

from __future__ import annotations

from collections.abc import Container

from switcher.domain.errors import SwitcherError
from switcher.domain.model_copies import find_content
from switcher.domain.observed import Installed, Resident, find_digest, find_installed
from switcher.domain.specs import DEFAULT_WARMUPS, FOREVER, Spec
from switcher.domain.states import State, Strategy
from switcher.ollama.errors import OllamaError, TimedOut, Unreachable
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.switching.effects import ListInstalled, ListResident, Pause, Steps
from switcher.switching.errors import Cancelled, Interrupted, NotResident
from switcher.switching.published_name_steps import restore_published_name
from switcher.switching.residency import (
    NOTICED_S,
    as_recorded,
    list_resident_if_possible,
    load_spec,
    request_unload,
    retry_while_unreachable,
    wait_until_unloaded,
)

MAX_TRIES = 3
UNANSWERED = (Cancelled, Interrupted, TimedOut, Unreachable)


def restore(switch: ClaimedSwitch, why: SwitcherError) -> Steps[None]:
    """Bring a switch in state RESTORING to its end: rolled back, cancelled, or failed and
    degraded."""
    if isinstance(why, UNANSWERED):
        # A load may still finish before the server notices that its caller went away (fact 9), and
        # nothing shows until then (fact 8).
        yield Pause(NOTICED_S)
    loaded_again: dict[str, None] = {}  # a set in order
    try:
        # Giving up at once would leave everyone without a model.
        after = yield from retry_while_unreachable(
            switch, lambda: _bring_back(switch, loaded_again)
        )
    except (OllamaError, NotResident) as exc:
        yield from restore_published_name(switch)
        yield from _end_degraded(switch, exc)
        return
    yield from restore_published_name(switch)
    switch.end(
        State.CANCELLED if isinstance(why, Cancelled) else State.ROLLED_BACK,
        after=as_recorded(switch, after),
        restored=", ".join(loaded_again),
        outcome=_restored_text(switch, why, loaded_again),
    )


def _end_degraded(switch: ClaimedSwitch, exc: SwitcherError) -> Steps[None]:
    after = yield from list_resident_if_possible()
    switch.end(
        State.FAILED,
        degraded=True,
        after=None if after is None else as_recorded(switch, after),
        restored="",
        outcome=_degraded_text(switch, after, exc),
    )


def _bring_back(
    switch: ClaimedSwitch, loaded_again: dict[str, None]
) -> Steps[tuple[Resident, ...]]:
    """Unload what this switch loaded and load what it unloaded, until a fresh reading shows the old
    models. Return that reading; `loaded_again` collects the names of the models that were loaded.
    """
    given_up: set[str] = set()
    installed: tuple[Installed, ...] = yield ListInstalled()
    doubted = _may_be_leaving(switch)
    for _ in range(MAX_TRIES):
        now: tuple[Resident, ...] = yield ListResident()
        extra, missing = _compare(switch, now, doubted, given_up)
        if not extra and not missing:
            return now
        if extra:
            yield from _unload_extra(switch, extra)
        for old in missing:
            try:
                yield from _load_again(switch, old, installed)
            except (OllamaError, NotResident) as exc:
                if _is_needed(switch, old):
                    raise
                given_up.add(old.digest)
                switch.warn(f"{old.name} did not come back: {exc.text}")
            else:
                loaded_again[old.name.short] = None
        doubted = frozenset()
    now = yield ListResident()
    _, missing = _compare(switch, now, doubted, given_up)
    if missing:
        names = ", ".join(r.name.short for r in missing)
        raise NotResident(f"{names} did not stay loaded.")
    return now


def _may_be_leaving(switch: ClaimedSwitch) -> frozenset[str]:
    """Return the digests that a swap may have asked to unload. They can still be listed and leave a
    moment later (facts 1, 2), so they are loaded again even if they are listed: that cancels the
    unload (fact 3)."""
    is_swap = switch.plan.strategy is Strategy.SWAP
    return frozenset(switch.plan.unload) if is_swap else frozenset()


def _compare(
    switch: ClaimedSwitch,
    now: tuple[Resident, ...],
    doubted: frozenset[str],
    given_up: set[str],
) -> tuple[list[Resident], list[Resident]]:
    """Return the models that are resident because of this switch, and those that were resident
    before it and are not now. The active model comes first, so that no other takes its room.

    Models that others have loaded meanwhile stay, and models that have expired need not come back.
    """
    plan = switch.plan
    was_resident = find_digest(plan.before, plan.digest) is not None
    extra = [] if was_resident else [r for r in now if r.digest == plan.digest]
    missing = [
        r
        for r in plan.before
        if (r.digest in doubted or not _is_as_before(r, find_digest(now, r.digest)))
        and r.digest not in given_up
        and not _has_expired(switch, r)
    ]
    return extra, sorted(missing, key=lambda r: r.digest != switch.old_digest)


def _is_as_before(old: Resident, now: Resident | None) -> bool:
    """Return whether the model is resident with the same context length; otherwise it was reloaded
    with other options (fact 12)."""
    return now is not None and now.context_length == old.context_length


def _has_expired(switch: ClaimedSwitch, old: Resident) -> bool:
    """Return whether the model's keep-alive has run out. A model that this switch unloaded, or that
    is desired on the host, has to come back all the same."""
    wanted = {switch.old_digest, *switch.plan.unload}
    if old.digest in wanted or old.name in {pin.name for pin in switch.pinned}:
        return False
    return old.expires_at is not None and old.expires_at <= switch.clock.now()


def _unload_extra(switch: ClaimedSwitch, extra: list[Resident]) -> Steps[None]:
    yield from request_unload({r.digest: r.name for r in extra})
    # A load that was cut may finish just before the server notices (fact 9).
    warning = yield from wait_until_unloaded(frozenset(r.digest for r in extra))
    if warning:
        switch.warn(warning)


def _load_again(
    switch: ClaimedSwitch, old: Resident, installed: tuple[Installed, ...]
) -> Steps[None]:
    """Load a model as it was loaded before: by its profile if that is known, else by its name and
    keep-alive."""
    row = find_content(old.digest, old.name, installed)
    if row is None:
        gone = find_installed(installed, old.name) is None
        what = "is no longer on the host" if gone else "means other content now"
        raise NotResident(f"{old.name} cannot come back: the name {what}.")
    yield from load_spec(_spec_of(switch, old).under(row.name), installed)


def _spec_of(switch: ClaimedSwitch, old: Resident) -> Spec:
    for spec in (switch.old_spec, *switch.pinned):
        if spec is not None and spec.name == old.name:
            return spec
    keep_alive = FOREVER if old.stays else "30m"
    return Spec(profile="", tag=old.name.full, keep_alive=keep_alive, warmups=DEFAULT_WARMUPS)


def _is_needed(switch: ClaimedSwitch, old: Resident) -> bool:
    """Return whether restoring fails without this model: it was active, or nothing was. For other
    models that do not come back, there is a warning."""
    was_active = find_digest(switch.plan.before, switch.old_digest)
    return was_active is None or old.digest == switch.old_digest


def _restored_text(switch: ClaimedSwitch, why: SwitcherError, loaded_again: Container[str]) -> str:
    new, old = switch.spec.name, _old_name(switch)
    what = "was cancelled" if isinstance(why, Cancelled) else "did not become active"
    was_active = find_digest(switch.plan.before, switch.old_digest)
    if not old or was_active is None:
        before = f": {old} was not in memory" if old else ""
        return f"{new} {what}. {switch.host} is as it was before{before}."
    if was_active.name.short in loaded_again:
        return f"{new} {what}. {old} is active again."
    return f"{new} {what}. {old} stays active; it was not touched."


def _degraded_text(
    switch: ClaimedSwitch, after: tuple[Resident, ...] | None, exc: SwitcherError
) -> str:
    old = _old_name(switch) or "what was loaded before"
    cause = exc.text.rstrip(".")
    what = f"{switch.spec.name} did not become active, and {old} did not come back: {cause}."
    return f"{what} {resident_text(switch, after)}"


def _old_name(switch: ClaimedSwitch) -> str:
    return switch.old_spec.name.short if switch.old_spec else ""


def resident_text(switch: ClaimedSwitch, resident: tuple[Resident, ...] | None) -> str:
    """Return what the host was last seen to hold, as a sentence."""
    if resident is None:
        return f"{switch.host} does not answer, so what it holds is not known."
    if resident:
        return f"{switch.host} holds {', '.join(r.name.short for r in resident)}."
    return f"{switch.host} holds no model."
