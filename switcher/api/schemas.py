"""The JSON of the API: what is read from a request, and how facts are written in an answer."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from switcher.domain.observed import Installed, Observation, Resident, find_digest
from switcher.domain.plans import Plan
from switcher.domain.states import State
from switcher.queries.drifts import DriftRow
from switcher.queries.hosts import ActiveModel as Active
from switcher.queries.hosts import HostSettings
from switcher.queries.switches import SwitchDetail, SwitchSummary
from switcher.switching.service import Freed, SwitchRequest

SWITCHED = "Model physically unloaded and reloaded in Ollama. No server restart needed."


class Given(BaseModel):
    """What clients send: unknown members and wrong types are refused, not guessed at."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SwitchBody(Given):
    """A wish for a switch. One of `model` and `profile` is needed."""

    model: str | None = Field(None, description="Tag as Ollama lists it.", examples=["qwen2.5:14b"])
    host: str | None = Field(None, description="Name of a host; without it the default host.")
    profile: str | None = Field(None, description="Name of a profile.")
    reason: str | None = Field(None, description="Why; kept in the record. At most 500 characters.")
    strategy: str | None = Field(None, description="auto, overlap or swap.", examples=["auto"])
    keep_alive: str | int | None = Field(
        None, description="How long it stays loaded when idle: 30m, 2h, forever (or -1), 0."
    )
    dry_run: bool = Field(False, description="Only the plan: nothing is done.")
    wait: bool | None = Field(None, description="false: 202 at once, with an address to poll.")

    def wish(self) -> SwitchRequest:
        return SwitchRequest(
            model=self.model or "",
            profile=self.profile or "",
            host=self.host or "",
            reason=self.reason or "",
            strategy=self.strategy or "",
            keep_alive=_keep_alive(self.keep_alive),
        )


def _keep_alive(given: str | int | None) -> str:
    """A bare number is seconds, as in Ollama's own API; below zero is for ever (fact 7)."""
    if isinstance(given, int):
        return "forever" if given < 0 else f"{given}s"
    return given or ""


class UsageQuery(BaseModel):
    host: str = Field("", description="Name of a host; without it all.")
    key: int | None = Field(None, description="Id of a key; without it all, and what had none.")
    days: int = Field(7, ge=1, le=3660, description="How far back, in days.")


class UsageCount(BaseModel):
    """Of one key, host and model; `key` is null for what was asked without a key."""

    key: int | None
    key_name: str | None
    host: str
    model: str
    requests: int
    errors: int
    waits: int
    wait_ms: int
    tokens_in: int
    tokens_out: int


class UsageList(BaseModel):
    days: int
    usage: list[UsageCount]


class ModelsQuery(BaseModel):
    host: str = Field("", description="Name of a host; without it the default host.")


class ExportQuery(BaseModel):
    """What of the audit trail is exported; empty means any."""

    format: str = Field("jsonl", description="jsonl or csv.")
    host: str = Field("", description="Name of a host.")
    model: str = Field("", description="Tag of a model.")
    actor: str = Field("", description="Who did it.")
    kind: str = Field("", description="A kind, or switches, configuration, people, audit, ….")
    outcome: str = Field("", description="How a switch ended.")
    since: str = Field("", description="A date, or a date and a time; UTC.")
    until: str = Field("", description="The same; it belongs to the range.")
    text: str = Field("", description="Words that are all in the reason.")
    unreviewed: str = Field("", description="yes: only what no auditor has reviewed.")


class SwitchesQuery(BaseModel):
    host: str = Field("", description="Only switches of this host.")
    state: list[State] = Field([], description="Only switches in one of these states.")
    before: int | None = Field(None, ge=1, le=2**63 - 1, description="Only ids below this one.")
    limit: int = Field(50, ge=1, le=200)


class EventRef(BaseModel):
    """Where a switch is recorded."""

    id: int
    url: str


class ActiveModel(BaseModel):
    """What the host is to serve. `resident`: whether it was seen loaded; null if not known."""

    model: str
    digest: str
    profile: str | None
    since: str | None
    resident: bool | None
    degraded: str | None


class Done(BaseModel):
    """The model is active: it was seen loaded, and it answered."""

    success: bool
    model: str
    previous_model: str | None
    host: str
    strategy: str
    event: EventRef
    duration_s: float | None
    phases: list[dict[str, Any]]
    note: str
    already_active: bool = False


class Planned(BaseModel):
    """What a switch would do. `blocked` says why it could not work."""

    dry_run: bool
    plan: dict[str, Any]


class Accepted(BaseModel):
    """The switch is recorded and runs by itself; ask at `event.url` how it goes."""

    accepted: bool
    model: str
    host: str
    state: str
    event: EventRef


class Models(BaseModel):
    """What a host is to serve, holds and has. With `error` it is what it held when it last
    answered, at `observed_at`."""

    host: str
    active: ActiveModel | None
    resident: list[dict[str, Any]]
    installed: list[dict[str, Any]]
    observed_at: str | None
    error: str | None
    drift: list[dict[str, Any]] = Field(
        [], description="What the watcher sees that is not as desired, with its evidence."
    )


class FreedModel(BaseModel):
    """A ghost that is gone; `bytes` is what it held."""

    freed: bool
    host: str
    model: str
    digest: str
    bytes: int


class SwitchList(BaseModel):
    """Newest first; `next` is the address of the page that follows."""

    switches: list[dict[str, Any]]
    next: str | None


class ProblemDocument(BaseModel):
    """RFC 9457, with what is active now and what was restored where that applies."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    active: ActiveModel | None = None
    restored: str | None = None
    event: EventRef | None = None


def event_json(switch_id: int) -> dict[str, Any]:
    return {"id": switch_id, "url": f"/ollama/switches/{switch_id}"}


def active_json(host: HostSettings, seen: tuple[Resident, ...] | None) -> dict[str, Any] | None:
    active = host.active
    if active is None:
        return None
    return {
        "model": active.model,
        "digest": active.digest,
        "profile": active.profile or None,
        "since": active.since.isoformat() if active.since else None,
        "resident": None if seen is None else find_digest(seen, active.digest) is not None,
        "degraded": host.degraded or None,
    }


def done_json(row: SwitchDetail) -> dict[str, Any]:
    """A switch that ended well. The note is the record's own where nothing was loaded."""
    answer: dict[str, Any] = {
        "success": True,
        "model": row.model,
        "previous_model": row.previous_model or None,
        "host": row.host,
        "strategy": row.strategy,
        "event": event_json(row.id),
        "duration_s": row.duration_s,
        "phases": _phases(row),
        "note": SWITCHED,
    }
    if row.already_active:
        note = f"{row.model} was active already, and answered. Nothing was unloaded or loaded."
        answer |= {"already_active": True, "note": note}
    if row.warnings:
        answer["warnings"] = list(row.warnings)
    return answer


def accepted_json(row: SwitchDetail) -> dict[str, Any]:
    return {
        "accepted": True,
        "model": row.model,
        "host": row.host,
        "state": row.state.value,
        "event": event_json(row.id),
    }


def planned_json(plan: Plan) -> dict[str, Any]:
    return {"dry_run": True, "plan": plan.to_json()}


def models_json(
    host: HostSettings,
    seen: Observation,
    known: Observation | None,
    drifts: tuple[DriftRow, ...] = (),
) -> dict[str, Any]:
    """`seen` is a reading just made; where it failed, `known` is the last one that did not."""
    facts = seen if seen.answered else known
    resident = facts.resident if facts else ()
    return {
        "host": host.name,
        "active": active_json(host, seen.resident if seen.answered else None),
        "resident": [_resident(r, host.active) for r in resident],
        "installed": [_installed(i) for i in (facts.installed if facts else ())],
        "observed_at": facts.at.isoformat() if facts else None,
        "error": seen.error or None,
        "drift": [drift_json(d) for d in drifts],
    }


def freed_json(freed: Freed) -> dict[str, Any]:
    return {"freed": True, "host": freed.host, "model": freed.model} | {
        "digest": freed.digest,
        "bytes": freed.bytes,
    }


def drift_json(row: DriftRow) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "model": row.model or None,
        "digest": row.digest or None,
        "text": row.text,
        "since": row.since.isoformat(),
        "repair": event_json(row.repair) if row.repair else None,
        "evidence": dict(row.evidence),
    }


def _resident(row: Resident, active: Active | None) -> dict[str, Any]:
    facts = row.to_json()
    facts["model"] = facts["name"]
    if row.stays:
        facts["expires_at"] = None  # fact 7: the server says the year 2319
    facts |= {
        "stays": row.stays,
        "gpu_percent": row.gpu_percent,
        "active": active is not None and bool(row.digest) and row.digest == active.digest,
    }
    return facts


def _installed(row: Installed) -> dict[str, Any]:
    return row.to_json() | {"model": row.name}


def switch_json(row: SwitchSummary) -> dict[str, Any]:
    """A switch in a list."""
    return {
        "id": row.id,
        "url": event_json(row.id)["url"],
        "host": row.host,
        "state": row.state.value,
        "ended": row.ended,
        "model": row.model,
        "profile": row.profile or None,
        "previous_model": row.previous_model or None,
        "strategy": row.strategy,
        "actor": row.actor,
        "source": row.source,
        "reason": row.reason,
        "created_at": row.created_at.isoformat(),
        "started_at": row.started_at.isoformat() if row.started_at else None,
        "ended_at": row.ended_at.isoformat() if row.ended_at else None,
        "duration_s": row.duration_s,
        "outcome": row.outcome,
        "error_code": row.error_code or None,
        "error": row.error or None,
        "restored": row.restored or None,
        "degraded": row.degraded,
        "warnings": list(row.warnings),
    }


def switch_detail_json(row: SwitchDetail) -> dict[str, Any]:
    """A switch with its phases, its plan, and what was resident before and after."""
    return switch_json(row) | {
        "digest": row.digest or None,
        "previous_digest": row.previous_digest or None,
        "strategy_asked": row.strategy_asked,
        "strategy_reason": row.strategy_reason,
        "already_active": row.already_active,
        "cancel_asked_by": row.cancel_asked_by or None,
        "phases": _phases(row),
        "plan": row.plan,
        "before": _set(row.before),
        "after": _set(row.after),
        "figures": dict(row.figures),
    }


def _phases(row: SwitchDetail) -> list[dict[str, Any]]:
    return [{**p, "expected_s": row.expected_phase_s(p["phase"])} for p in row.phases]


def _set(rows: tuple[Resident, ...] | None) -> list[dict[str, Any]] | None:
    return None if rows is None else [r.to_json() for r in rows]
