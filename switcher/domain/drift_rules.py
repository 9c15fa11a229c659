"""The rules that find drift by comparing a reading with the desired state. Pure: no I/O, no Django.

Every reading is compared from scratch and yields all differences; comparing two lists shows which
began and which ended. Why a model is gone (evicted, expired, restarted) can only be determined at
the first reading without it, so the recorded kind is kept until the model is back.
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
from switcher.domain.model_copies import find_content
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Observation, Resident, find_digest, find_installed
from switcher.domain.plan_room import gpu_fall
from switcher.domain.published_name import is_taken, taken_text
from switcher.domain.same_server import same_server_finding
from switcher.domain.specs import FOREVER, keep_alive_s
from switcher.domain.wording import gb

# Smaller differences are not drift: clocks differ slightly, and a reading takes time.
TOLERANCE = timedelta(seconds=5)
# An expiry that differs by less counts as unchanged.
SAME_EXPIRY = timedelta(seconds=2)
SAME_SIZE = 0.02  # a share: the same options may take a little more or less memory


def kinds_shown(now: Observation, same_as: Mapping[str, str] | None = None) -> frozenset[Kind]:
    """Return the kinds of drift that a reading can show; a failed one shows only that the host is
    unreachable. `same_as` is None while it is too early to tell."""
    if not now.answered:
        return frozenset({Kind.UNREACHABLE})
    return frozenset(Kind) - ({Kind.SAME_SERVER} if same_as is None else frozenset())


def find_drift(
    desired: Desired,
    history: ReadingHistory,
    now: Observation,
    same_as: Mapping[str, str] | None = None,
) -> tuple[DriftFinding, ...]:
    """Return all drift that this reading shows. Do not call it while a switch is open.

    `same_as` are the hosts that are the same server, with their addresses, by name.
    """
    if not now.answered:
        return _unreachable(desired, history, now)
    models = desired.models(now.installed)
    found = [same_server_finding(desired.host, same_as, now)] if same_as else []
    for model in models:
        found += _of_desired(model, desired, history, now)
    found += _of_published_name(desired, now)
    found += _of_others(desired, {m.digest for m in models if m.digest}, history, now)
    if history.has_open(Kind.FLAPPING, "") and any(f.kind in REPAIRED for f in found):
        # It lasts as long as the drift that recurs.
        found.append(DriftFinding(Kind.FLAPPING, "", "", "", {}))
    return tuple(found)


def ending_text(desired: Desired, now: Observation, kind: Kind, digest: str) -> str:
    """Return why a drift that this reading no longer shows has ended."""
    if kind is Kind.UNREACHABLE:
        return "The host answers again."
    if kind is Kind.FLAPPING:
        return "The recurring drift has ended."
    if kind is Kind.SAME_SERVER:
        return "The addresses lead to different servers again, or one host was removed."
    if kind is Kind.PUBLISHED:
        return "The published name is correct again, or no longer set."
    models = {m.digest or _key(m.name) for m in desired.models(now.installed)}
    loaded = find_digest(now.resident, digest) is not None
    if kind in (Kind.GHOST, Kind.FOREIGN):
        if loaded and digest in models:
            return "The model is now desired here."
        return "The model is no longer loaded."
    if digest not in models:
        return "The model is no longer desired here."
    if kind is Kind.OTHER_CONTENT:
        return "The name points to the right content again."
    if not loaded:
        return "The model is no longer loaded."
    return "The model is loaded again." if kind in GONE else "The model is as desired again."


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
    """Compare the content that the published name points to with the active model (fact 21)."""
    active, name = desired.active, desired.published
    if active is None or name is None or not name.wanted:
        return []
    row = find_installed(now.installed, name.wanted)
    digest = row.digest if row else None
    if name.is_ours and digest == active.digest:
        return []
    if row is None and not name.is_ours:
        return []  # not created yet
    if is_taken(name, now.installed):
        text = taken_text(name)
    elif row is None:
        text = f"{name.wanted} should point to {active.name}, but is not on the host."
    else:
        text = f"{name.wanted} should point to {active.name}, but points to other content."
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
    found = [other] if other is not None else []
    row = find_content(model.digest, model.name, now.installed)
    if row is None:
        return found  # no name reaches it, so it cannot come back
    if row.is_cloud:
        return found  # it is never loaded here (fact 28)
    resident = find_digest(now.resident, model.digest)
    if resident is None:
        return [*found, _gone(model, desired, history, now)]
    was = desired.verified.get(model.digest)
    shown = [
        _reloaded(model, resident, history, now) or _resized(model, was, resident, history, now),
        _shortened(model, resident, history, now),
        _lengthened(model, resident, history, now),
        _on_cpu(model, resident, history, now),
    ]
    return found + [f for f in shown if f is not None]


def _other_content(
    model: DesiredModel, history: ReadingHistory, now: Observation
) -> DriftFinding | None:
    """Check that the name still points to the activated content (facts 23, 24)."""
    row = find_installed(now.installed, model.name)
    if model.active and row is not None and row.digest == model.digest:
        return None
    if not model.active and row is not None:
        return None  # a pinned model is whatever its name points to
    if row is not None:
        text = f"{model.name} now points to content other than what was activated."
    else:
        what = "is active, but is no longer" if model.active else "is pinned, but is not"
        text = f"{model.name} {what} on the host."
    resident = find_digest(now.resident, model.digest)
    found = _finding(Kind.OTHER_CONTENT, model, text, history, now, resident)
    found.evidence["now"]["name_means"] = row.digest if row else None
    return found


def _gone(
    model: DesiredModel, desired: Desired, history: ReadingHistory, now: Observation
) -> DriftFinding:
    """Report a desired model that is not loaded. The kind that was recorded first stays until it is
    back."""
    kind, text = _why_gone(model, history, now)
    known = next((k for k in GONE if history.has_open(k, model.digest)), None)
    if known is not None and not (kind is Kind.RESTARTED and history.failures):
        # What later readings show says nothing about why it left, except another restart.
        text = history.open_texts.get((known.value, model.digest), text)
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
        return Kind.MISSING, f"{model.name} is {role}, but not loaded."
    expires = last.row.expires_at
    if expires is not None and not last.row.stays and _server_time(now) >= expires - TOLERANCE:
        return Kind.EXPIRED, f"{model.name} expired: its keep-alive ran out at {_clock(expires)}."
    restarted = _restarted_text(history, now)
    if restarted:
        return Kind.RESTARTED, f"{model.name} is no longer loaded. {restarted}"
    newcomers = _newcomers(history, now)
    more = f" Loaded since then: {newcomers}." if newcomers else ""
    due = "was to stay forever" if last.row.stays else f"was due to unload at {_clock(expires)}"
    return Kind.EVICTED, (
        f"{model.name} was evicted: at {_clock(last.at)} it was still loaded and {due}.{more}"
    )


def _restarted_text(history: ReadingHistory, now: Observation) -> str:
    """Return what suggests that the server was restarted, which unloads everything; empty if
    nothing does."""
    before = history.previous
    if before is None or any(find_digest(now.resident, r.digest) for r in before.resident):
        return ""
    if history.failures:
        return (
            f"The server restarted: it stopped answering after {_clock(before.at)}, "
            "and everything it had loaded is gone."
        )
    if now.reconnected or history.reconnected:
        return (
            "The server restarted: it closed its connections, and everything it had loaded is gone."
        )
    if len(before.resident) > 1 and not now.resident:
        return (
            "All models were unloaded at once, although none had expired: either the server "
            "restarted, or somebody unloaded them all."
        )
    return ""


def _newcomers(history: ReadingHistory, now: Observation) -> str:
    before = {r.digest for r in history.previous.resident} if history.previous else set()
    return ", ".join(r.name.short for r in now.resident if r.digest not in before)


def _reloaded(
    model: DesiredModel, resident: Resident, history: ReadingHistory, now: Observation
) -> DriftFinding | None:
    """Check the context length: a request with other runner options reloads (fact 12)."""
    if not model.context or resident.context_length in (0, model.context):
        return None
    text = (
        f"{model.name} was reloaded with other options: its context length is "
        f"{resident.context_length:,} instead of {model.context:,}."
    )
    return _finding(Kind.RELOADED, model, text, history, now, resident)


def _resized(
    model: DesiredModel,
    was: Resident | None,
    resident: Resident,
    history: ReadingHistory,
    now: Observation,
) -> DriftFinding | None:
    """Check the size: no list shows `num_batch` and the like, but with another value the model
    takes another amount of memory than `was` verified."""
    if was is None or not was.size:
        return None
    if (was.context_length, was.gpu_percent) != (resident.context_length, resident.gpu_percent):
        return None
    if abs(resident.size - was.size) <= was.size * SAME_SIZE:
        return None
    text = (
        f"{model.name} was reloaded with other options: it takes {gb(resident.size)} GB instead of "
        f"{gb(was.size)} GB, at the same context length."
    )
    return _finding(Kind.RELOADED, model, text, history, now, resident)


def _lengthened(
    model: DesiredModel, resident: Resident, history: ReadingHistory, now: Observation
) -> DriftFinding | None:
    """Check whether a client's keep-alive replaced ours by a longer one (fact 13): the timer starts
    at the end of a request, so ours ends at most a full keep-alive after the reading."""
    whole_s = keep_alive_s(model.spec.keep_alive)
    if whole_s is None or resident.expires_at is None:
        return None
    latest = _server_time(now) + timedelta(seconds=whole_s) + TOLERANCE
    if resident.expires_at <= latest:
        return None
    stays = "is to stay forever" if resident.stays else f"unloads at {_clock(resident.expires_at)}"
    text = (
        f"The keep-alive of {model.name} was lengthened: the model {stays}, although its "
        f"keep-alive is set to {model.spec.keep_alive}."
    )
    return _finding(Kind.LENGTHENED, model, text, history, now, resident)


def _shortened(
    model: DesiredModel, resident: Resident, history: ReadingHistory, now: Observation
) -> DriftFinding | None:
    """Check whether a client's keep-alive replaced ours (fact 13)."""
    keep_alive = model.spec.keep_alive
    if keep_alive == "0" or resident.expires_at is None or resident.stays:
        return None
    if keep_alive != FOREVER and not _was_cut_short(model, resident, history, now):
        return None
    text = (
        f"The keep-alive of {model.name} was shortened: the model unloads at "
        f"{_clock(resident.expires_at)}, although its keep-alive is set to {keep_alive}."
    )
    return _finding(Kind.SHORTENED, model, text, history, now, resident)


def _was_cut_short(
    model: DesiredModel, resident: Resident, history: ReadingHistory, now: Observation
) -> bool:
    """Return whether the expiry is earlier than a request could have set it. A request without a
    keep-alive restarts the timer, so the new expiry is at least a full keep-alive after the last
    reading (fact 13)."""
    last = history.last.get(model.digest)
    if last is None or last.row.expires_at is None:
        return False
    assert resident.expires_at is not None
    if not last.row.stays and abs(resident.expires_at - last.row.expires_at) < SAME_EXPIRY:
        return history.has_open(Kind.SHORTENED, model.digest)  # unchanged
    whole = timedelta(seconds=keep_alive_s(model.spec.keep_alive) or 0.0)
    clock_ahead = timedelta(seconds=now.clock_ahead_s)
    return resident.expires_at < last.at + clock_ahead + whole - TOLERANCE


def _on_cpu(
    model: DesiredModel, resident: Resident, history: ReadingHistory, now: Observation
) -> DriftFinding | None:
    """Check the GPU share against the profile's floor and the last activation."""
    why = gpu_fall(resident.gpu_percent, model.spec.min_gpu_percent, model.gpu_percent)
    if not why:
        return None
    text = f"{model.name} moved to the CPU: {why}."
    return _finding(Kind.ON_CPU, model, text, history, now, resident)


# --- other models ------------------------------------------------------------------------------


def _of_others(
    desired: Desired, digests: set[str], history: ReadingHistory, now: Observation
) -> list[DriftFinding]:
    """Report resident models that are not desired: ghosts, and foreign models if the host has any
    desired ones."""
    found = []
    for r in now.resident:
        if r.digest in digests:
            continue
        why = ghost_text(r, now.installed, now.at, desired.model_copies, now.clock_ahead_s)
        if why:
            found.append(_other(Kind.GHOST, r, why, desired, history, now))
        elif desired.active or desired.pinned:
            text = (
                f"{_shown_name(r, desired)} is loaded although nobody asked for it here, "
                f"and takes {gb(r.bytes)} GB."
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
    is overdue. Empty if it is not a ghost."""
    size = f"{gb(r.bytes)} GB"
    name = model_copies.get(r.name, r.name)
    row = find_installed(installed, name)
    if row is None:
        return f"{name} was deleted while it was loaded, and still holds {size}."
    if row.digest != r.digest:
        return (
            f"{name} now points to other content; the old content is still loaded and holds {size}."
        )
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
    """Return a stand-in for the digest of a model that is not installed, to identify it."""
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
    """Return the time of the reading by the server's clock: expiries are given in that time."""
    return now.at + timedelta(seconds=now.clock_ahead_s)


def _shown_name(r: Resident, desired: Desired) -> str:
    """Return the name to show; for a model copy, the name of its model."""
    return desired.model_copies.get(r.name, r.name).short


def _clock(at: datetime | None) -> str:
    return f"{at:%H:%M:%S}" if at else "an unknown time"
