"""Steps that switching and restoring share: load, unload, and wait until that has happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeVar

from switcher.domain.model_copies import find_name, with_model_names
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident, find_digest, find_installed, is_cloud
from switcher.domain.specs import Spec, load_timeout_s
from switcher.domain.wording import gb
from switcher.ollama.errors import OllamaError, ServerBusy, TimedOut, Unreachable
from switcher.queries.model_copies import tags_of
from switcher.records.claimed_switch import ClaimedSwitch, snapshot
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
from switcher.switching.model_copies import make_copy

T = TypeVar("T")

UNREACHABLE_NAME = "no name on the host means it any more"
UNLOAD_TIMEOUT_S = 60.0
POLL_INTERVAL_S = 0.1
FIRST_INTERVALS_S = (0.02, 0.04, 0.08)  # an idle model is gone some 20 ms after the answer
UNLOAD_INTERVAL_S = 2.0
RETRY_FOR_S = 60.0
RETRY_INTERVAL_S = 2.0
NOTICED_S = 0.2  # within which a server notices that a caller went away, and does what follows


def load_spec(spec: Spec, installed: tuple[Installed, ...]) -> Steps[None]:
    """Load a model and have it answer its first warm-up prompt."""
    row = find_installed(installed, spec.name)
    embeds = row is not None and (yield from with_capabilities(row)).embeds_only
    timeout_s = load_timeout_s(spec, row.size if row else 0)
    yield Load(spec, embeds, timeout_s)
    yield Warm(spec, spec.warmups[0], embeds, timeout_s)


def with_capabilities(row: Installed) -> Steps[Installed]:
    """Return the model with its capabilities: an embedding model is loaded and warmed through
    `/api/embed`. Older servers do not list them in `/api/tags` (fact 16)."""
    if row.capabilities:
        return row
    capabilities: tuple[str, ...] = yield ShowModel(row.name)
    return replace(row, capabilities=capabilities)


def request_unload(models: Mapping[str, ModelName]) -> Steps[dict[str, str]]:
    """Request the unload of these models, given by digest. Return the error text of each refused
    request, by digest.

    Each model is unloaded by a name that points to its content now. Its own name may point to
    another model by now, which must stay (fact 23).
    """
    installed: tuple[Installed, ...] = yield ListInstalled()
    names = {digest: find_name(digest, name, installed) for digest, name in models.items()}
    errors = {digest: UNREACHABLE_NAME for digest, name in names.items() if not name}
    digests = {name: digest for digest, name in names.items() if name}
    if digests:
        refused: dict[ModelName, str] = yield Unload(tuple(digests))
        errors |= {digests[name]: text for name, text in refused.items()}
    return errors


def wait_until_unloaded(digests: frozenset[str]) -> Steps[str]:
    """Wait until `/api/ps` lists none of these models. Return a warning if some stay, else an empty
    text.

    Requests the unload again every UNLOAD_INTERVAL_S: a client's keep-alive may have cancelled it
    (fact 3), or it came too early (fact 4).
    """
    waited, since_request = 0.0, 0.0
    intervals = iter(FIRST_INTERVALS_S)
    while True:
        now: tuple[Resident, ...] = yield ListResident()
        left = [r for r in now if r.digest in digests]
        if not left:
            return ""
        if waited >= UNLOAD_TIMEOUT_S:
            return _still_resident(left, "a client keeps it there")
        if since_request >= UNLOAD_INTERVAL_S:
            errors = yield from request_unload({r.digest: r.name for r in left})
            if all(errors.get(r.digest) == UNREACHABLE_NAME for r in left):
                return _still_resident(left, UNREACHABLE_NAME)
            since_request = 0.0
        seconds = next(intervals, POLL_INTERVAL_S)
        yield Pause(seconds)
        waited += seconds
        since_request += seconds


def _still_resident(left: list[Resident], why: str) -> str:
    names = ", ".join(r.name.short for r in left)
    return f"{names} is still in memory ({gb(sum(r.size for r in left))} GB): {why}."


def load_pinned(switch: ClaimedSwitch, now: tuple[Resident, ...]) -> Steps[dict[ModelName, str]]:
    """Load the pinned models that are not resident, including those that the server evicted during
    the switch (facts 14, 15). One that cannot be loaded is a warning. Return the digests that the
    names of the pinned models point to."""
    installed: tuple[Installed, ...] = ()
    for spec in switch.pinned:
        if spec.name == switch.spec.name:
            continue
        installed = installed or (yield ListInstalled())
        row = find_installed(installed, spec.name)
        digest = row.digest if row else ""
        if find_digest(now, digest) is not None or is_cloud(spec.name, row):
            continue
        evicted = find_digest(switch.plan.before, digest) is not None
        if row is not None:
            yield from make_copy(switch, spec.name, row.digest, installed)
        try:
            yield from load_spec(spec, installed)
        except OllamaError as exc:
            what = (
                f"The server evicted {spec.name}, and it did not come back"
                if evicted
                else f"{spec.name} is pinned, and could not be loaded"
            )
            switch.warn(f"{what}: {exc.text}")
        else:
            if evicted:
                switch.warn(f"The server evicted {spec.name}; it was loaded again.")
    pinned = {spec.name for spec in switch.pinned}
    return {row.name: row.digest for row in installed if row.name in pinned}


def retry_while_unreachable(switch: ClaimedSwitch, act: Callable[[], Steps[T]]) -> Steps[T]:
    """Run steps, and run them again while the server restarts, hangs or is too busy. After
    RETRY_FOR_S, raise the last error.

    Requests that were sent while the server hung may still take effect once it continues, even
    though nobody waits for them any more. So after such a time, the steps run once more after their
    first success.
    """
    until = switch.clock.monotonic() + RETRY_FOR_S
    was_silent = False
    while True:
        try:
            result = yield from act()
        except (Unreachable, TimedOut, ServerBusy):
            if switch.clock.monotonic() >= until:
                raise
            was_silent = True
            yield Pause(RETRY_INTERVAL_S)
        else:
            if not was_silent:
                return result
            was_silent = False
            yield Pause(NOTICED_S)


def as_recorded(switch: ClaimedSwitch, resident: tuple[Resident, ...]) -> list[dict[str, object]]:
    """Return loaded models in the form in which the record keeps them, by the names that people
    know: one that was loaded by its copy is listed by the copy's name (fact 21)."""
    return snapshot(with_model_names(resident, tags_of(switch.host_id, resident)))


def list_resident_if_possible() -> Steps[tuple[Resident, ...] | None]:
    """Return a reading for the record only, not to base decisions on; None if it fails."""
    try:
        now: tuple[Resident, ...] = yield ListResident()
    except OllamaError:
        return None
    return now
