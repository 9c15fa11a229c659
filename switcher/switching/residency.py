"""What steps and restoring both need: making models come and go, and waiting until it is so."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import Any, TypeVar

from switcher.observed import Installed, Resident, find_digest, find_installed, short_name
from switcher.ollama.errors import OllamaError
from switcher.plans import gb
from switcher.records.switches import Held
from switcher.specs import Spec, load_timeout_s
from switcher.switching.effects import (
    Catalogue,
    Effect,
    Learn,
    Load,
    Look,
    Pause,
    Unload,
    Warm,
)
from switcher.switching.jobs import Job

T = TypeVar("T")
Steps = Generator[Effect, Any, T]

LEAVE_S = 60.0
POLL_S = 0.1
ASK_AGAIN_S = 2.0
FIRST_POLLS_S = (0.02, 0.04, 0.08)  # an idle model is gone some 20 ms after the answer


def load_spec(spec: Spec, installed: tuple[Installed, ...]) -> Steps[None]:
    """Load a model and have it answer its first warm-up."""
    row = find_installed(installed, spec.tag)
    embeds = row is not None and (yield from learned(row)).embeds_only
    timeout_s = load_timeout_s(spec, row.size if row else 0)
    yield Load(spec, embeds, timeout_s)
    yield Warm(spec, spec.warmups[0], embeds, timeout_s)


def learned(row: Installed) -> Steps[Installed]:
    """The model with what it can do: an embedding model is loaded and warmed by `/api/embed`
    (fact 16). Servers before 0.30 do not say it in `/api/tags`."""
    if row.capabilities:
        return row
    capabilities: tuple[str, ...] = yield Learn(row.name)
    return replace(row, capabilities=capabilities)


def wait_gone(digests: frozenset[str]) -> Steps[str]:
    """Wait until `/api/ps` lists none of `digests`; ask again, as an unload may have been revived
    by a client's keep-alive (fact 3) or come too early (fact 4). Gives what to warn of, if any."""
    waited, since_asked = 0.0, 0.0
    polls = iter(FIRST_POLLS_S)
    while True:
        now: tuple[Resident, ...] = yield Look()
        left = [r for r in now if r.digest in digests]
        if not left:
            return ""
        if waited >= LEAVE_S:
            return (
                f"{', '.join(short_name(r.name) for r in left)} is still in memory "
                f"({gb(sum(r.size for r in left))} GB): a client keeps it there."
            )
        if since_asked >= ASK_AGAIN_S:
            yield Unload(tuple(r.name for r in left))
            since_asked = 0.0
        seconds = next(polls, POLL_S)
        yield Pause(seconds)
        waited += seconds
        since_asked += seconds


def bring_back_preloaded(held: Held, job: Job, before: tuple[Resident, ...]) -> Steps[None]:
    """Models kept resident on purpose that the server evicted on the way (facts 14, 15) come
    back, or are reported."""
    now: tuple[Resident, ...] = yield Look()
    names = {r.name for r in before if find_digest(now, r.digest) is None}
    installed: tuple[Installed, ...] = ()
    for spec in job.preloaded:
        if spec.name not in names or spec.name == job.spec.name:
            continue
        installed = installed or (yield Catalogue())
        try:
            yield from load_spec(spec, installed)
            held.note(warning=f"The server evicted {short_name(spec.name)}; it was loaded again.")
        except OllamaError as exc:
            held.note(
                warning=f"The server evicted {short_name(spec.name)}, and it did not come back: "
                f"{exc.text}"
            )


def look_or_none() -> Steps[tuple[Resident, ...] | None]:
    """A reading that may fail: for the record, where nothing is decided from it."""
    try:
        now: tuple[Resident, ...] = yield Look()
    except OllamaError:
        return None
    return now
