"""The JSON of the API's answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from django.urls import get_script_prefix
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from switcher.domain import observed
from switcher.domain.model_names import full_name
from switcher.domain.observed import Observation, find_digest
from switcher.domain.plan_inputs import Expected
from switcher.domain.states import State, Strategy
from switcher.queries import hosts, switches
from switcher.queries.drifts import DriftRow
from switcher.queries.keys import UsageRow

SWITCHED = "Model physically unloaded and reloaded in Ollama. No server restart needed."

# A time in a response: ISO 8601, in UTC.
Moment = Annotated[
    datetime,
    PlainSerializer(datetime.isoformat, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]
# Text that is stored as an empty string if there is none, and is null in responses.
Text = Annotated[str | None, BeforeValidator(lambda text: text or None)]
# A model is named in full everywhere, as Ollama lists it, however a client has written it.
Model = Annotated[str, BeforeValidator(full_name)]
ModelOrNone = Annotated[str | None, BeforeValidator(lambda text: full_name(text or "") or None)]


def switch_url(switch_id: int) -> str:
    """Return the address of a switch."""
    return f"{get_script_prefix()}ollama/switches/{switch_id}"


class Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class EventRef(Answer):
    """A reference to the record of a switch."""

    id: int
    url: str

    @classmethod
    def to(cls, switch_id: int) -> Self:
        return cls(id=switch_id, url=switch_url(switch_id))

    @classmethod
    def of(cls, switch_id: int | None) -> Self | None:
        return None if switch_id is None else cls.to(switch_id)


class ActiveModel(Answer):
    """The model that clients of a host get. `resident` says whether it was seen loaded; null if
    unknown. `degraded` is the reason if the host does not hold it."""

    model: Model
    digest: str
    profile: Text
    since: Moment | None
    resident: bool | None
    degraded: Text

    @classmethod
    def of(
        cls, host: hosts.HostSettings | None, seen: tuple[observed.Resident, ...] | None
    ) -> Self | None:
        """Return the active model of a host; `seen` is what was last seen loaded there, if
        known.
        """
        if host is None or host.active is None:
            return None
        active = host.active
        return cls(
            model=active.model,
            digest=active.digest,
            profile=active.profile,
            since=active.since,
            resident=None if seen is None else find_digest(seen, active.digest) is not None,
            degraded=host.degraded,
        )


class Resident(Answer):
    """A model that was loaded. Sizes are bytes."""

    name: str
    digest: str
    size: int
    size_vram: int
    context_length: int
    expires_at: Moment | None

    @classmethod
    def all_of(cls, rows: tuple[observed.Resident, ...] | None) -> list[Self] | None:
        return None if rows is None else [cls.model_validate(row.to_json()) for row in rows]


class ResidentModel(Resident):
    """A loaded model. `expires_at` is null if it stays until it is unloaded (`stays`)."""

    model: Model
    stays: bool
    gpu_percent: int
    active: bool

    @classmethod
    def of(cls, row: observed.Resident, active: hosts.ActiveModel | None) -> Self:
        known = row.to_json()
        if row.stays:
            known["expires_at"] = None  # Ollama lists it with the year 2319 (fact 7)
        return cls(
            **known,
            model=known["name"],
            stays=row.stays,
            gpu_percent=row.gpu_percent,
            active=active is not None and find_digest((row,), active.digest) is not None,
        )


class InstalledModel(Answer):
    """A model on the host's disk. `size` is that of its files. `kind` is empty, cloud, embedding,
    image, audio or MLX; prompts to a cloud model are sent to its `remote_host`."""

    name: str
    digest: str
    size: int
    capabilities: list[str]
    remote_host: str
    on_mlx: bool
    most_context: int = Field(description="Tokens that it was trained for; 0 if unknown.")
    kind: str
    model: Model


class Drift(Answer):
    """A difference between a host's observed and desired state, with its evidence."""

    kind: str
    model: Text
    digest: Text
    text: str
    since: Moment
    repair: Annotated[EventRef | None, BeforeValidator(EventRef.of)]
    evidence: dict[str, Any]


class Models(Answer):
    """The active, loaded and installed models of a host. With `error`, this is what the host held
    when it last answered, at `observed_at`.
    """

    host: str
    active: ActiveModel | None
    resident: list[ResidentModel]
    installed: list[InstalledModel]
    observed_at: Moment | None
    error: Text
    drift: list[Drift] = Field(description="Open differences from the host's desired state.")

    @classmethod
    def of(
        cls,
        host: hosts.HostSettings,
        seen: Observation,
        known: Observation | None,
        drifts: tuple[DriftRow, ...],
    ) -> Self:
        """Build it from `seen`, a fresh reading, and `known`, the last reading that succeeded."""
        facts = seen if seen.answered else known
        installed = facts.installed if facts else ()
        return cls(
            host=host.name,
            active=ActiveModel.of(host, seen.resident if seen.answered else None),
            resident=[
                ResidentModel.of(row, host.active) for row in (facts.resident if facts else ())
            ],
            installed=[
                InstalledModel(**i.to_json(), model=i.name.full, kind=i.kind) for i in installed
            ],
            observed_at=facts.at if facts else None,
            error=seen.error,
            drift=[Drift.model_validate(row) for row in drifts],
        )


class FreedModel(Answer):
    """A ghost that was unloaded; `bytes` is what it held."""

    freed: bool = True
    host: str
    model: Model
    digest: str
    bytes: int


class UnloadPlan(Answer):
    """What unloading the active model will do. `keep` are models that stay loaded; `published` is
    the name that is removed from the server."""

    host: str
    model: Model
    digest: str
    bytes: int
    loaded: bool
    published: str
    keep: list[str]
    text: str


class Unloaded(Answer):
    """A host without an active model, or with `dry_run` the plan for it. `is_gone` is false while
    the model's last requests run, null for a plan."""

    dry_run: bool
    plan: UnloadPlan
    is_gone: bool | None
    text: str


class Phase(Answer):
    """A phase of a switch. `seconds` is null while it lasts; `expected_s` is what the plan
    expected, null if nothing was measured yet."""

    phase: State = Field(validation_alias="state")
    at: Moment
    seconds: float | None
    note: Text
    expected_s: float | None


class SwitchSummary(Answer):
    """A switch in a list."""

    id: int
    url: Annotated[str, BeforeValidator(switch_url)] = Field(validation_alias="id")
    host: str
    state: State
    ended: bool
    model: Model
    profile: Text
    previous_model: ModelOrNone
    strategy: str
    actor: str
    source: str
    reason: str
    created_at: Moment
    started_at: Moment | None
    ended_at: Moment | None
    duration_s: float | None = Field(description="From the request to the end.")
    outcome: str
    error_code: Text
    error: Text
    restored: Text
    degraded: bool
    warnings: list[str]


class SwitchDetail(SwitchSummary):
    """A switch with its phases, its plan, and what was loaded before and after."""

    digest: Text
    previous_digest: Text
    strategy_asked: str
    strategy_reason: str
    already_active: bool
    cancel_asked_by: Text
    phases: list[Phase]
    plan: dict[str, Any] | None = Field(description="As a dry run shows it.")
    before: Annotated[list[Resident] | None, BeforeValidator(Resident.all_of)]
    after: Annotated[list[Resident] | None, BeforeValidator(Resident.all_of)]
    figures: dict[str, Any] = Field(description="What was measured.")


class SwitchList(Answer):
    """A page of switches, newest first; `next` is the address of the following page."""

    switches: list[SwitchSummary]
    next: str | None


class Done(Answer):
    """A success: the model is active, was seen loaded on the host, and has answered."""

    success: bool
    model: Model
    profile: Text = Field(description="The profile that was used, named or not; null for none.")
    previous_model: ModelOrNone
    host: str
    strategy: str
    event: EventRef
    duration_s: float | None
    phases: list[Phase]
    note: str
    already_active: bool = Field(False, description="Present if the model was active already.")
    warnings: list[str] = Field([], description="Present if there are any.")

    @classmethod
    def of(cls, row: switches.SwitchDetail) -> Self:
        more: dict[str, Any] = {"warnings": list(row.warnings)} if row.warnings else {}
        note = SWITCHED
        if row.already_active:
            more["already_active"] = True
            note = f"{row.model} was active already, and answered. Nothing was unloaded or loaded."
        elif row.loaded_nothing:
            note = f"{row.model} was not loaded for this: {row.loaded_nothing}. It has answered."
        return cls(
            success=True,
            model=row.model,
            profile=row.profile,
            previous_model=row.previous_model,
            host=row.host,
            strategy=row.strategy,
            event=EventRef.to(row.id),
            duration_s=row.duration_s,
            phases=[Phase.model_validate(phase) for phase in row.phases],
            note=note,
            **more,
        )


class PlanItem(Answer):
    """A model in a plan. `role` is active, pinned, former, foreign or new."""

    name: str
    digest: str
    bytes: int
    role: str
    why: str
    total: int = Field(description="All that it takes; `bytes` is what it takes of the VRAM.")


class Plan(Answer):
    """A plan of a switch. Sizes are bytes; unknown values are null."""

    host: str
    model: Model
    profile: Text
    digest: str
    strategy: Strategy
    strategy_reason: str
    unload: list[PlanItem]
    load: PlanItem
    keep: list[PlanItem]
    reload: list[PlanItem] = Field(description="Pinned models that are loaded as well.")
    bytes_before: int
    bytes_after: int
    bytes_peak: int
    vram_bytes: int | None
    fits: bool | None
    short_bytes: int
    blocked: str = Field(description="Why the switch cannot work; empty if it can.")
    expected: dict[str, Expected] = Field(description="By phase.")
    already_active: bool
    stays: bool
    restore: str = Field(description="The model that comes back if the switch fails.")
    warmups: int
    published: str
    cannot_publish: str
    context: int = Field(description="Tokens that the model is expected to get; 0 if unknown.")
    size_basis: str = Field(description="How the size is known: learned, computed or guessed.")
    fits_context: int = Field(description="The largest context with which it would fit, or 0.")
    had_room: bool = Field(description="It fits beside all that is loaded.")
    context_advice: str
    warnings: list[str]
    cloud: bool = Field(description="It runs elsewhere: nothing is loaded, and prompts leave.")
    token: str
    expected_s: float | None
    without_model_s: float | None


class Planned(Answer):
    """A dry run: what a switch would do."""

    dry_run: bool
    plan: Plan


class Accepted(Answer):
    """An accepted switch, which runs by itself; `event.url` shows its progress."""

    accepted: bool
    model: Model
    profile: Text
    host: str
    state: State
    event: EventRef


class UsageList(Answer):
    days: int
    usage: list[UsageRow]


class FieldError(Answer):
    """An error in a field of the request; the field is empty if the error is about the whole
    request."""

    field: str
    message: str


class ProblemDocument(Answer):
    """RFC 9457. Members beyond `instance` are present where they apply: after a switch, how it
    ended, what is active now and what was restored; after an invalid request, its fields."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    errors: list[FieldError] = []
    host: str = ""
    state: State | None = None
    active: ActiveModel | None = None
    restored: Text = None
    degraded: bool = False
    event: EventRef | None = None
    duration_s: float | None = None
