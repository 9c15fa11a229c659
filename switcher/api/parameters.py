"""Parameters of API requests: the body of a switch request, and the filters of lists."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from switcher.domain.specs import FOREVER
from switcher.domain.states import State
from switcher.switching.service import SwitchRequest


class SwitchBody(BaseModel):
    """A request for a switch. Either `model` or `profile` is required."""

    # Unknown fields and wrong types are rejected, not coerced.
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = Field(None, description="Tag as Ollama lists it.", examples=["qwen2.5:14b"])
    host: str | None = Field(None, description="Name of a host; without it the default host.")
    profile: str | None = Field(
        None,
        description="Name of a profile. Without it, a model gets its profile if it has exactly "
        "one; null means none.",
    )
    reason: str | None = Field(None, description="Kept in the record. At most 500 characters.")
    strategy: str | None = Field(None, description="auto, overlap or swap.", examples=["auto"])
    keep_alive: str | int | float | None = Field(
        None,
        description="How long an idle model stays loaded: 30m, 24h, a number of seconds, forever "
        "(or anything below 0). 0 is refused: such a model could not stay active.",
    )
    num_ctx: int | None = Field(
        None, ge=1, lt=2**31, description="Context length in tokens, instead of the profile's."
    )
    dry_run: bool = Field(False, description="true: return the plan and change nothing.")
    wait: bool | None = Field(None, description="false: answer 202 at once, with an address.")

    @property
    def _excludes_profile(self) -> bool:
        return self.profile is None and "profile" in self.model_fields_set

    def to_request(self) -> SwitchRequest:
        return SwitchRequest(
            model=self.model or "",
            profile=None if self._excludes_profile else self.profile or "",
            host=self.host or "",
            reason=self.reason or "",
            strategy=self.strategy or "",
            keep_alive=_keep_alive(self.keep_alive),
            num_ctx=str(self.num_ctx or ""),
        )


def _keep_alive(given: str | float | None) -> str:
    """Return a keep-alive as text. A number means seconds, as in Ollama's own API; below zero,
    forever (fact 7).
    """
    if isinstance(given, int | float):
        return FOREVER if given < 0 else f"{given}s"
    return given or ""


class UnloadBody(BaseModel):
    """A request to unload the active model without a replacement."""

    model_config = ConfigDict(extra="forbid", strict=True)

    host: str | None = Field(None, description="Name of a host; without it the default host.")
    reason: str | None = Field(None, description="Kept in the trail. At most 500 characters.")
    dry_run: bool = Field(False, description="true: return the plan and change nothing.")


class ModelsQuery(BaseModel):
    host: str = Field("", description="Name of a host; without it the default host.")


class SwitchesQuery(BaseModel):
    host: str = Field("", description="Only switches of this host.")
    state: list[State] = Field([], description="Only switches in one of these states.")
    before: int | None = Field(None, ge=1, le=2**63 - 1, description="Only ids below this one.")
    limit: int = Field(50, ge=1, le=200)


class UsageQuery(BaseModel):
    host: str = Field("", description="Only this host.")
    key: int | None = Field(None, description="Only the key of this id.")
    days: int = Field(7, ge=1, le=3660, description="How far back, in days.")


class ExportQuery(BaseModel):
    """The part of the audit trail to export; empty means any."""

    format: str = Field("jsonl", description="jsonl or csv.")
    host: str = Field("", description="Name of a host.")
    model: str = Field("", description="Tag of a model.")
    actor: str = Field("", description="Who did it.")
    kind: str = Field("", description="A kind, or switches, configuration, people, audit, ….")
    outcome: str = Field("", description="How a switch ended.")
    since: str = Field("", description="A date, or a date and a time; UTC.")
    until: str = Field("", description="A date, or a date and a time, inclusive; UTC.")
    text: str = Field("", description="Words that all occur in the reason.")
    unreviewed: str = Field("", description="yes: only entries that no auditor has reviewed.")
