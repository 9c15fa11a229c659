"""A plan in words, as the page shows it before the switch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import urlencode

from django.urls import reverse

from switcher.domain.clock import system
from switcher.domain.errors import SwitcherError, SwitchRunning
from switcher.domain.model_names import ModelName
from switcher.domain.plans import Plan
from switcher.domain.states import State
from switcher.ollama.errors import OllamaError, TimedOut, Unreachable
from switcher.panel.filters import span
from switcher.panel.page import CANNOT_SWITCH
from switcher.presentation.bars import Bar, plan_bars
from switcher.presentation.hosts import Note
from switcher.presentation.switches import SwitchView, switch_view, view_of
from switcher.queries.switches import open_switch_on
from switcher.switching import service
from switcher.switching.gateway_waits import DRAIN_TIMEOUT_S
from switcher.switching.service import SwitchRequest


@dataclass(frozen=True, slots=True)
class PlanPreview:
    """A plan with everything that the page says about it. `blocked_because` says why it
    cannot run.
    """

    drain_timeout_s: ClassVar[float] = DRAIN_TIMEOUT_S

    host: str = ""
    model: str = ""
    simulated: bool = False
    plan: Plan | None = None
    notice: Note | None = None
    blocked_because: str = ""
    before: Bar | None = None
    after: Bar | None = None
    request: SwitchRequest = field(default_factory=SwitchRequest)

    @property
    def smaller_context(self) -> str:
        """Return the context length with which the model would fit, in words."""
        return f"{self.plan.fits_context:,}" if self.plan else ""

    @property
    def smaller_href(self) -> str:
        """Return the address of the same plan with a context that fits."""
        wanted, plan = self.request, self.plan
        profile = wanted.profile or (f"={wanted.model}" if wanted.model else "")
        values = {
            "host": self.host,
            "profile": profile,
            "reason": wanted.reason,
            "strategy": wanted.strategy,
            "keep_alive": wanted.keep_alive,
            "num_ctx": str(plan.fits_context) if plan else "",
        }
        query = urlencode({name: value for name, value in values.items() if value})
        return f"{reverse('plan')}?{query}#quick-switch"

    @property
    def names(self) -> tuple[str, ...]:
        """Return the models that the plan mentions."""
        plan = self.plan
        items = (plan.load, *plan.unload, *plan.keep, *plan.reload) if plan else ()
        return tuple({self.model, *(i.short for i in items)} - {""})

    @property
    def size_source(self) -> str:
        """Return where the size of the new model comes from, if it was not measured just now."""
        why = self.plan.load.why if self.plan and self.plan.load.bytes else ""
        return why.replace("about, ", "estimated ")

    @property
    def checks_s(self) -> float | None:
        """Return the seconds that warming and verifying are expected to take."""
        expected = self.plan.expected if self.plan else {}
        phases = (State.WARMING.value, State.VERIFYING.value)
        known = [expected[phase].seconds for phase in phases if phase in expected]
        return sum(known) if known else None


NO_PLAN = PlanPreview(
    blocked_because="There is no plan yet. Choose a host and a model, then refresh the plan."
)


def preview_plan(
    request: SwitchRequest,
    can_switch: bool,
    *,
    simulated: bool = False,
    notice: Note | None = None,
) -> PlanPreview:
    """Plan a switch from a fresh reading of its host, and say why if it cannot run."""
    try:
        plan = service.plan(request)
    except SwitcherError as exc:
        return PlanPreview(
            host=request.host,
            model=ModelName.parse(request.model).short,
            notice=notice or _failure(exc),
            blocked_because="There is no plan to run.",
        )
    found = open_switch_on(plan.host)
    running = view_of(found, system.now()) if found else None
    before, after = plan_bars(plan)
    return PlanPreview(
        host=plan.host,
        model=plan.load.short,
        simulated=simulated,
        plan=plan,
        # A running switch explains more than that the host has changed.
        notice=_already_switching(running) if running else notice,
        blocked_because=_blocked_because(plan, running, can_switch),
        before=before,
        after=after,
        request=request,
    )


def refusal(exc: SwitcherError) -> Note:
    """Return a notice that says why nothing was switched."""
    if isinstance(exc, SwitchRunning):
        return _already_switching(switch_view(exc.switch_id, system.now()))
    reason = exc.text.removeprefix("Nothing was switched.").strip()
    return Note("failed", f"{reason} The plan below is new.", headline="Nothing was switched.")


def _blocked_because(plan: Plan, running: SwitchView | None, can_switch: bool) -> str:
    if not can_switch:
        return CANNOT_SWITCH
    if plan.blocked:
        taken = plan.blocked == plan.cannot_publish
        pinned = [i.short for i in plan.keep if i.role == "pinned"]
        more = f" Unpin {', '.join(pinned)} or choose a smaller build." if pinned else ""
        return plan.blocked + (more if plan.short_bytes and not taken else "")
    if running is not None:
        return f"{plan.host} is switching. Wait for it, or cancel it first."
    return ""


def _already_switching(running: SwitchView) -> Note:
    began = f"started by {running.actor} {span(running.elapsed_s)} ago"
    return Note(
        "busy",
        f"to {running.to_model}, {began}. Wait or",
        href=f"{reverse('board')}#switch-{running.id}",
        link="watch it",
        headline=f"{running.host} is already switching",
    )


def _failure(exc: SwitcherError) -> Note:
    if not isinstance(exc, OllamaError):
        return Note("failed", exc.text, headline="No plan.")
    silent = isinstance(exc, Unreachable | TimedOut)
    headline = "The host does not answer." if silent else "The host's answer could not be used."
    return Note("failed", f"{exc.text} {exc.advice}".rstrip(), headline=headline)
