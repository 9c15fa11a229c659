"""The rules that find drift, by comparing a reading with what is desired. Pure: no I/O, no Django.

Each reading is compared afresh, and all differences are returned, so that the recorder can tell
which began and which ended. Why a model left (evicted, expired, restarted) can only be told at the
first reading that misses it: from then on the recorded kind stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from switcher.domain.drift import (
    GHOST_AFTER_S,
    GONE,
    OFFLINE_AFTER,
    REPAIRED,
    Desired,
    DesiredModel,
    DriftFinding,
    Kind,
    LastSeen,
    ReadingHistory,
)
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Observation, Resident, find_digest, find_installed
from switcher.domain.plans import gb, gpu_fall
from switcher.domain.published_name import is_taken, taken_text
from switcher.domain.specs import FOREVER, keep_alive_s

# A few seconds more or less are no drift: the server counts its own, and a reading takes time.
TOLERANCE = timedelta(seconds=5)
# An expiry that differs by less has not moved.
SAME_EXPIRY = timedelta(seconds=2)


def kinds_shown(now: Observation) -> frozenset[Kind]:
    """Return the kinds of drift that a reading can show. Of a host that does not answer, nothing
    else is known."""
    return frozenset(Kind) if now.answered else frozenset({Kind.UNREACHABLE})


def find_drift(
    desired: Desired, history: ReadingHistory, now: Observation
) -> tuple[DriftFinding, ...]:
    """Return all drift that this reading shows. Not to be called while a switch is open."""
    if not now.answered:
        return _unreachable(desired, history, now)
    models = desired.models(now.installed)
    found: list[DriftFinding] = []
    for model in models:
        found += _of_desired(model, desired, history, now)
    found += _of_published_name(desired, now)
    found += _of_others(desired, {m.digest for m in models if m.digest}, history, now)
    if history.has_open(Kind.FLAPPING, "") and any(f.kind in REPAIRED for f in found):
        # It lasts as long as what keeps coming back.
        found.append(DriftFinding(Kind.FLAPPING, "", "", "", {}))
    return tuple(found)


def ending_text(desired: Desired, now: Observation, kind: Kind, digest: str) -> str:
    """Return why a drift that this reading no longer shows is over."""
    if kind is Kind.UNREACHABLE:
        return "It answers again."
    if kind is Kind.FLAPPING:
        return "It no longer keeps coming back."
    if kind is Kind.PUBLISHED:
        return "The published name is right again, or none is set."
    models = {m.digest or _key(m.name) for m in desired.models(now.installed)}
    loaded = find_digest(now.resident, digest) is not None
    if kind in (Kind.GHOST, Kind.FOREIGN):
        return "It should be loaded now." if loaded and digest in models else "It is not loaded."
    if digest not in models:
        return "It need not be loaded here any more."
    if kind is Kind.OTHER_CONTENT:
        return "Its name means the right content again."
    if not loaded:
        return "It is not loaded."
    return "It is loaded again." if kind in GONE else "It is as desired again."


def _unreachable(
    desired: Desired, history: ReadingHistory, now: Observation
) -> tuple[DriftFinding, ...]:
    failures = history.failures + 1
    if failures < OFFLINE_AFTER:
        return ()
    before = history.previous
    since = f" It last answered at {_clock(before.at)}." if before else " It never answered."
    evidence = {
        "wanted": {"answers": True},
        "before": _reading_facts(before),
        "now": {"at": now.at.isoformat(), "error": now.error, "failures": failures},
    }
    text = f"{desired.host} does not answer: {now.error}{since}"
    return (DriftFinding(Kind.UNREACHABLE, "", "", text, evidence),)


# --- the published name ------------------------------------------------------------------------


def _of_published_name(desired: Desired, now: Observation) -> list[DriftFinding]:
    """The published name should mean the active model, by digest (fact 21)."""
    active, name = desired.active, desired.published
    if active is None or name is None or not name.wanted:
        return []
    row = find_installed(now.installed, name.wanted)
    digest = row.digest if row else None
    if name.is_ours and digest == active.digest:
        return []
    if row is None and not name.is_ours:
        return []  # it was not made yet
    if is_taken(name, now.installed):
        text = taken_text(name)
    elif row is None:
        text = f"{name.wanted} should mean {active.name}, and is not on the host."
    else:
        text = f"{name.wanted} should mean {active.name}, and means other content."
    evidence = {
        "wanted": {"name": name.wanted.full, "digest": active.digest},
        "now": {"at": now.at.isoformat(), "name_means": digest},
    }
    return [DriftFinding(Kind.PUBLISHED, name.wanted.full, active.digest, text, evidence)]


# --- one desired model -------------------------------------------------------------------------


def _of_desired(
    model: DesiredModel, desired: Desired, history: ReadingHistory, now: Observation
) -> list[DriftFinding]:
    other = _other_content(model, history, now)
    if other is not None:
        return [other]
    resident = find_digest(now.resident, model.digest)
    if resident is None:
        return [_gone(model, desired, history, now)]
    rules = (_reloaded, _shortened, _on_cpu)
    return [f for rule in rules if (f := rule(model, resident, history, now)) is not None]


def _other_content(
    model: DesiredModel, history: ReadingHistory, now: Observation
) -> DriftFinding | None:
    """Its name means other content than what was activated, or nothing (facts 23, 24)."""
    row = find_installed(now.installed, model.name)
    if model.active and row is not None and row.digest == model.digest:
        return None
    if not model.active and row is not None:
        return None  # a pinned model is whatever its name means now
    if row is not None:
        text = f"{model.name} means other content now than what was activated."
    else:
        what = "is active, and is no longer" if model.active else "is pinned, and is not"
        text = f"{model.name} {what} on the host."
    resident = find_digest(now.resident, model.digest)
    found = _finding(Kind.OTHER_CONTENT, model, text, history, now, resident)
    found.evidence["now"]["name_means"] = row.digest if row else None
    return found


def _gone(
    model: DesiredModel, desired: Desired, history: ReadingHistory, now: Observation
) -> DriftFinding:
    """It is not loaded. Why is decided when that is new."""
    kind, text = _why_gone(model, history, now)
    known = next((k for k in GONE if history.has_open(k, model.digest)), None)
    found = _finding(known or kind, model, text, history, now, None)
    found.evidence["now"] |= {
        "resident": [_shown_name(r, desired) for r in now.resident],
        "failures_before": history.failures,
        "connection_closed": now.reconnected or history.reconnected,
    }
    return found


def _why_gone(model: DesiredModel, history: ReadingHistory, now: Observation) -> tuple[Kind, str]:
    last = history.last.get(model.digest)
    if last is None:
        role = "active" if model.active else "pinned"
        return Kind.MISSING, f"{model.name} is {role}, and is not loaded."
    expires = last.row.expires_at
    if expires is not None and not last.row.stays and _server_time(now) >= expires - TOLERANCE:
        return Kind.EXPIRED, f"{model.name} expired: its keep-alive ran out at {_clock(expires)}."
    restarted = _restarted_text(history, now)
    if restarted:
        return Kind.RESTARTED, f"{model.name} is no longer loaded. {restarted}"
    newcomers = _newcomers(history, now)
    more = f" Since then {newcomers} was loaded." if newcomers else ""
    due = "to stay for ever" if last.row.stays else f"due to unload at {_clock(expires)}"
    return Kind.EVICTED, (
        f"{model.name} was evicted: at {_clock(last.at)} it was loaded, {due}.{more}"
    )


def _restarted_text(history: ReadingHistory, now: Observation) -> str:
    """Return why the server must have restarted; empty if that is not known. A restart unloads
    everything."""
    before = history.previous
    if before is None or any(find_digest(now.resident, r.digest) for r in before.resident):
        return ""
    if history.failures:
        return (
            f"The server restarted: after {_clock(before.at)} it did not answer, "
            "and what it had loaded is gone."
        )
    if now.reconnected or history.reconnected:
        return "The server restarted: it closed its connections, and what it had loaded is gone."
    if len(before.resident) > 1 and not now.resident:
        return (
            "All models left at once, though none had expired: the server restarted, "
            "or somebody unloaded all."
        )
    return ""


def _newcomers(history: ReadingHistory, now: Observation) -> str:
    before = {r.digest for r in history.previous.resident} if history.previous else set()
    return ", ".join(r.name.short for r in now.resident if r.digest not in before)


def _reloaded(
    model: DesiredModel, resident: Resident, history: ReadingHistory, now: Observation
) -> DriftFinding | None:
    """Somebody requested it with other runner options (fact 12)."""
    if not model.context or resident.context_length in (0, model.context):
        return None
    text = (
        f"{model.name} was reloaded with other options: its context is "
        f"{resident.context_length:,} and should be {model.context:,}."
    )
    return _finding(Kind.RELOADED, model, text, history, now, resident)


def _shortened(
    model: DesiredModel, resident: Resident, history: ReadingHistory, now: Observation
) -> DriftFinding | None:
    """A client's keep-alive replaced ours (fact 13)."""
    keep_alive = model.spec.keep_alive
    if keep_alive == "0" or resident.expires_at is None or resident.stays:
        return None
    if keep_alive != FOREVER and not _was_cut_short(model, resident, history, now):
        return None
    says = "for ever" if keep_alive == FOREVER else keep_alive
    text = (
        f"The keep-alive of {model.name} was shortened: it unloads at "
        f"{_clock(resident.expires_at)}, though it should stay {says}."
    )
    return _finding(Kind.SHORTENED, model, text, history, now, resident)


def _was_cut_short(
    model: DesiredModel, resident: Resident, history: ReadingHistory, now: Observation
) -> bool:
    """Return whether the expiry is earlier than a request could have set it. A request without a
    keep-alive restarts the clock, so an expiry that moved lies a whole keep-alive after the last
    reading (fact 13)."""
    last = history.last.get(model.digest)
    if last is None or last.row.expires_at is None:
        return False
    assert resident.expires_at is not None
    if not last.row.stays and abs(resident.expires_at - last.row.expires_at) < SAME_EXPIRY:
        return history.has_open(Kind.SHORTENED, model.digest)  # as it was
    whole = timedelta(seconds=keep_alive_s(model.spec.keep_alive) or 0.0)
    clock_ahead = timedelta(seconds=now.clock_ahead_s)
    return resident.expires_at < last.at + clock_ahead + whole - TOLERANCE


def _on_cpu(
    model: DesiredModel, resident: Resident, history: ReadingHistory, now: Observation
) -> DriftFinding | None:
    """Less of it is on the GPU than the profile wants, or than when it was activated."""
    why = gpu_fall(resident.gpu_percent, model.spec.min_gpu_percent, model.gpu_percent)
    if not why:
        return None
    text = f"{model.name} fell to the CPU: {why}."
    return _finding(Kind.ON_CPU, model, text, history, now, resident)


# --- other models ------------------------------------------------------------------------------


def _of_others(
    desired: Desired, digests: set[str], history: ReadingHistory, now: Observation
) -> list[DriftFinding]:
    """Find ghosts among the resident models that are not desired; the rest are foreign models, if
    anything is desired of the host."""
    found = []
    for r in now.resident:
        if r.digest in digests:
            continue
        why = ghost_text(r, now.installed, now.at, desired.model_copies, now.clock_ahead_s)
        if why:
            found.append(_other(Kind.GHOST, r, why, desired, history, now))
        elif desired.active or desired.pinned:
            text = (
                f"{_shown_name(r, desired)} is loaded, should not be, and takes {gb(_bytes(r))} GB."
            )
            found.append(_other(Kind.FOREIGN, r, text, desired, history, now))
    return found


def ghost_text(
    r: Resident,
    installed: Iterable[Installed],
    at: datetime,
    model_copies: Mapping[ModelName, ModelName],
    clock_ahead_s: float = 0.0,
) -> str:
    """Return why a resident model is a ghost: its name no longer reaches it (facts 23, 24), or it
    is overdue. Empty if it is none."""
    size = f"{gb(_bytes(r))} GB"
    name = model_copies.get(r.name, r.name)
    row = find_installed(installed, name)
    if row is None:
        return f"{name} was deleted while it was loaded, and still holds {size}."
    if row.digest != r.digest:
        return f"{name} means other content now; the old one is still loaded and holds {size}."
    if _is_overdue(r, at + timedelta(seconds=clock_ahead_s)):
        return f"{name} was due to unload at {_clock(r.expires_at)} and still holds {size}."
    return ""


def _is_overdue(r: Resident, server_time: datetime) -> bool:
    late = timedelta(seconds=GHOST_AFTER_S)
    return r.expires_at is not None and server_time - r.expires_at > late


def _other(
    kind: Kind,
    r: Resident,
    text: str,
    desired: Desired,
    history: ReadingHistory,
    now: Observation,
) -> DriftFinding:
    evidence = {
        "wanted": None,
        "before": _resident_facts(history.last.get(r.digest)),
        "now": _resident_facts(LastSeen(r, now.at)),
    }
    return DriftFinding(kind, _shown_name(r, desired), r.digest, text, evidence)


# --- words and evidence ------------------------------------------------------------------------


def _finding(
    kind: Kind,
    model: DesiredModel,
    text: str,
    history: ReadingHistory,
    now: Observation,
    resident: Resident | None,
) -> DriftFinding:
    wanted = {
        "model": model.name.short,
        "digest": model.digest,
        "role": "active" if model.active else "pinned",
        "keep_alive": model.spec.keep_alive,
        "context_length": model.context or None,
        "gpu_percent": model.gpu_percent,
        "min_gpu_percent": model.spec.min_gpu_percent,
    }
    at = now.at.isoformat()
    evidence = {
        "wanted": wanted,
        "before": _resident_facts(history.last.get(model.digest)),
        "now": _resident_facts(LastSeen(resident, now.at) if resident else None)
        or {"at": at, "resident": []},
    }
    digest = model.digest or _key(model.name)
    return DriftFinding(kind, model.name.short, digest, text, evidence)


def _key(name: ModelName) -> str:
    """Return what stands for the digest of a model that is not installed."""
    return name.full[:80]


def _resident_facts(seen: LastSeen | None) -> dict[str, Any] | None:
    if seen is None:
        return None
    return seen.row.to_json() | {"gpu_percent": seen.row.gpu_percent, "at": seen.at.isoformat()}


def _reading_facts(seen: Observation | None) -> dict[str, Any] | None:
    if seen is None:
        return None
    return {"at": seen.at.isoformat(), "resident": [r.name.short for r in seen.resident]}


def _server_time(now: Observation) -> datetime:
    """Return the time of the reading by the clock that expiries are written by."""
    return now.at + timedelta(seconds=now.clock_ahead_s)


def _shown_name(r: Resident, desired: Desired) -> str:
    """Return the name that people know: a copy of ours goes by the name of its model."""
    return desired.model_copies.get(r.name, r.name).short


def _bytes(r: Resident) -> int:
    return r.size_vram or r.size


def _clock(at: datetime | None) -> str:
    return f"{at:%H:%M:%S}" if at else "an unknown time"
