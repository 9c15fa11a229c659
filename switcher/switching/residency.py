"""What steps and restoring both need: making models come and go, and waiting until it is so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from switcher.domain.model_copies import reaching
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident, find_digest, find_installed
from switcher.domain.plans import gb
from switcher.domain.specs import Spec, load_timeout_s
from switcher.ollama.errors import OllamaError, ServerBusy, TimedOut, Unreachable
from switcher.records.switches import ClaimedSwitch
from switcher.switching.effects import (
    ListInstalled,
    ListResident,
    Load,
    Pause,
    ShowModel,
    Steps,
    Unload,
    Warm,
)
from switcher.switching.jobs import Job
from switcher.switching.model_copies import make_copy

T = TypeVar("T")

UNREACHED = "no name on the host means it any more"
LEAVE_S = 60.0
POLL_INTERVAL_S = 0.1
ASK_AGAIN_S = 2.0
PATIENCE_S = 60.0
AGAIN_S = 2.0
NOTICED_S = 0.2  # within which a server has seen that a caller went away, and done what follows
FIRST_INTERVALS_S = (0.02, 0.04, 0.08)  # an idle model is gone some 20 ms after the answer


def load_spec(spec: Spec, installed: tuple[Installed, ...]) -> Steps[None]:
    """Load a model and have it answer its first warm-up."""
    row = find_installed(installed, spec.name)
    embeds = row is not None and (yield from learned(row)).embeds_only
    timeout_s = load_timeout_s(spec, row.size if row else 0)
    yield Load(spec, embeds, timeout_s)
    yield Warm(spec, spec.warmups[0], embeds, timeout_s)


def learned(row: Installed) -> Steps[Installed]:
    """The model with what it can do: an embedding model is loaded and warmed by `/api/embed`
    (fact 16). Servers before 0.30 do not say it in `/api/tags`."""
    if row.capabilities:
        return row
    capabilities: tuple[str, ...] = yield ShowModel(row.name)
    return replace(row, capabilities=capabilities)


def ask_to_leave(models: Mapping[str, ModelName]) -> Steps[dict[str, str]]:
    """Ask for the unload of these, digest to name, each by a name that means its content now: its
    own may mean another one, which is not to leave (fact 23). Gives, by digest, why one did not
    take the request."""
    installed: tuple[Installed, ...] = yield ListInstalled()
    ways = {digest: reaching(digest, name, installed) for digest, name in models.items()}
    errors = {digest: UNREACHED for digest, way in ways.items() if not way}
    used = {way: digest for digest, way in ways.items() if way}
    if used:
        refused: dict[ModelName, str] = yield Unload(tuple(used))
        errors |= {used[way]: text for way, text in refused.items()}
    return errors


def wait_gone(digests: frozenset[str]) -> Steps[str]:
    """Wait until `/api/ps` lists none of `digests`; ask again, as an unload may have been revived
    by a client's keep-alive (fact 3) or come too early (fact 4). Gives what to warn of, if any."""
    waited, since_asked = 0.0, 0.0
    polls = iter(FIRST_INTERVALS_S)
    while True:
        now: tuple[Resident, ...] = yield ListResident()
        left = [r for r in now if r.digest in digests]
        if not left:
            return ""
        if waited >= LEAVE_S:
            return _still_there(left, "a client keeps it there")
        if since_asked >= ASK_AGAIN_S:
            errors = yield from ask_to_leave({r.digest: r.name for r in left})
            if all(errors.get(r.digest) == UNREACHED for r in left):
                return _still_there(left, UNREACHED)
            since_asked = 0.0
        seconds = next(polls, POLL_INTERVAL_S)
        yield Pause(seconds)
        waited += seconds
        since_asked += seconds


def _still_there(left: list[Resident], why: str) -> str:
    names = ", ".join(r.name.short for r in left)
    return f"{names} is still in memory ({gb(sum(r.size for r in left))} GB): {why}."


def load_pinned(held: ClaimedSwitch, job: Job, before: tuple[Resident, ...]) -> Steps[None]:
    """Models that are kept resident on purpose and are not there are loaded: those that were not
    there before, and those that the server evicted on the way (facts 14, 15). One that cannot be
    is a warning."""
    now: tuple[Resident, ...] = yield ListResident()
    installed: tuple[Installed, ...] = ()
    for spec in job.pinned:
        if spec.name == job.spec.name:
            continue
        installed = installed or (yield ListInstalled())
        row = find_installed(installed, spec.name)
        digest = row.digest if row else ""
        if find_digest(now, digest) is not None:
            continue
        evicted = find_digest(before, digest) is not None
        if row is not None:
            yield from make_copy(held, job, spec.name, row.digest, installed)
        try:
            yield from load_spec(spec, installed)
        except OllamaError as exc:
            what = (
                "The server evicted {}, and it did not come back"
                if evicted
                else ("{} is to be kept loaded, and could not be loaded")
            )
            held.note(warning=f"{what.format(spec.name)}: {exc.text}")
        else:
            if evicted:
                held.note(warning=f"The server evicted {spec.name}; it was loaded again.")


def patiently(held: ClaimedSwitch, act: Callable[[], Steps[T]]) -> Steps[T]:
    """Do it, and again while the server restarts, hangs or is too busy for a moment. Raises what
    the last try raised, after PATIENCE_S.

    What was sent to a server while it hung may take effect only as it goes on, though nobody waits
    for it any more: so the first try that comes through then is not the last.
    """
    until = held.clock.monotonic() + PATIENCE_S
    was_silent = False
    while True:
        try:
            result = yield from act()
        except (Unreachable, TimedOut, ServerBusy):
            if held.clock.monotonic() >= until:
                raise
            was_silent = True
            yield Pause(AGAIN_S)
        else:
            if not was_silent:
                return result
            was_silent = False
            yield Pause(NOTICED_S)


def look_or_none() -> Steps[tuple[Resident, ...] | None]:
    """A reading that may fail: for the record, where nothing is decided from it."""
    try:
        now: tuple[Resident, ...] = yield ListResident()
    except OllamaError:
        return None
    return now
