"""A plan in words, as the page shows it before anybody can run it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from switcher.domain.clock import system
from switcher.domain.errors import SwitcherError, SwitchRunning
from switcher.domain.model_names import ModelName
from switcher.domain.plans import Item, Plan
from switcher.domain.states import State, Strategy
from switcher.domain.wording import NBSP
from switcher.ollama.errors import OllamaError, TimedOut, Unreachable
from switcher.panel.filters import gb, span
from switcher.panel.page import CANNOT_SWITCH, CurrentUser, Notice
from switcher.presentation.bars import Bar, plan_bars
from switcher.presentation.switches import SwitchView, switch_view, view_of
from switcher.queries.switches import open_switch_on
from switcher.switching import service
from switcher.switching.gateway_waits import DRAIN_TIMEOUT_S
from switcher.switching.service import SwitchRequest

STRATEGY_WORDS = {Strategy.OVERLAP: "Overlap", Strategy.SWAP: "Swap", Strategy.AUTO: "Auto"}


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One line of a plan. `action` is unload, load, keep or then."""

    action: str
    icon: str
    verb: str
    subject: str
    amount: str
    note: str = ""
    is_model: bool = True


@dataclass(frozen=True, slots=True)
class PlanPreview:
    """A plan with everything that the page says about it. `blocked_because` says why it
    cannot run.
    """

    host: str = ""
    model: str = ""
    simulated: bool = False
    plan: Plan | None = None
    notice: Notice | None = None
    blocked_because: str = ""
    headline: str = ""
    steps: tuple[PlanStep, ...] = ()
    before: Bar | None = None
    after: Bar | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the models that the plan mentions."""
        plan = self.plan
        items = (plan.load, *plan.unload, *plan.keep, *plan.reload) if plan else ()
        return tuple({self.model, *(i.short for i in items)} - {""})

    @property
    def restore(self) -> str:
        """Return the model that comes back if a step fails."""
        return self.plan.restore.short if self.plan else ""

    @property
    def strategy_word(self) -> str:
        return STRATEGY_WORDS[self.plan.strategy] if self.plan else ""


NO_PLAN = PlanPreview(
    blocked_because="There is no plan yet. Choose a host and a model, then refresh the plan."
)


def preview_plan(
    request: SwitchRequest,
    user: CurrentUser,
    *,
    simulated: bool = False,
    notice: Notice | None = None,
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
        blocked_because=_blocked_because(plan, running, user),
        headline=headline(plan),
        steps=_steps(plan),
        before=before,
        after=after,
    )


def started(host: str, model: str, switch_id: int) -> PlanPreview:
    """Return what replaces the plan once the switch runs."""
    notice = Notice(
        "busy",
        f"Switch {switch_id} has started:",
        f"{host} to {model}.",
        f"#switch-{switch_id}",
        "Watch it",
    )
    return replace(NO_PLAN, host=host, model=model, notice=notice)


def refusal(exc: SwitcherError) -> Notice:
    """Return a notice that says why nothing was switched."""
    if isinstance(exc, SwitchRunning):
        return _already_switching(switch_view(exc.switch_id, system.now()))
    reason = exc.text.removeprefix("Nothing was switched.").strip()
    return Notice("failed", "Nothing was switched.", f"{reason} The plan below is new.")


def headline(plan: Plan) -> str:
    """Return the plan in one sentence: how long there is no model, and which one is used
    afterwards.
    """
    if plan.blocked:
        return plan.blocked
    if plan.already_active:
        return (
            f"{plan.load.short} is already active on {plan.host}. It only has to answer one prompt."
        )
    of = f" of {gb(plan.vram_bytes)}" if plan.vram_bytes else ""
    use = f"{gb(plan.bytes_after)}{of}{NBSP}GB in use"
    if plan.fits is False:
        use += f": {gb(plan.short_bytes)}{NBSP}GB too much, so part of it runs on the CPU"
    return f"{_gap(plan)}, then {use}."


def _gap(plan: Plan) -> str:
    if plan.strategy is Strategy.OVERLAP:
        took = f"About {span(plan.expected_s)}" if plan.expected_s else "Some time (not known yet)"
        return f"{took}, never without a model" if plan.restore else took
    if plan.expected_s is None:
        return "Some time without an active model (not known yet how long)"
    return f"About {span(plan.expected_s)} without an active model"


def _steps(plan: Plan) -> tuple[PlanStep, ...]:
    unload = [_unload(i, plan) for i in plan.unload]
    load = [_load(plan), *(_pinned(i) for i in plan.reload)]
    order = [*unload, *load] if plan.strategy is Strategy.SWAP else [*load, *unload]
    return (*order, *(_keep(i) for i in plan.keep), _then(plan))


def _unload(item: Item, plan: Plan) -> PlanStep:
    note = item.why
    if not note and plan.strategy is Strategy.SWAP:
        note = f"after running replies end, at most {DRAIN_TIMEOUT_S:.0f}{NBSP}s"
    elif not note:
        note = "once the new one is active"
    return PlanStep("unload", "minus", "Unload", item.short, f"{gb(item.bytes)}{NBSP}GB", note)


def _pinned(item: Item) -> PlanStep:
    size = f"{gb(item.bytes)}{NBSP}GB" if item.bytes else "size not known"
    return PlanStep("load", "plus", "Load", item.short, size, "pinned, but not loaded now")


def _load(plan: Plan) -> PlanStep:
    if plan.stays:
        size = f"{gb(plan.load.bytes)}{NBSP}GB"
        return PlanStep("keep", "keep", "Keep", plan.load.short, size, "already active")
    expected = plan.expected.get(State.LOADING.value)
    notes = [f"about {span(expected.seconds)}, from {expected.source}"] if expected else []
    if plan.load.why and plan.load.bytes:
        notes.append(f"size {plan.load.why.replace('about, ', 'estimated ')}")
    size = f"{gb(plan.load.bytes)}{NBSP}GB" if plan.load.bytes else "size not known"
    return PlanStep("load", "plus", "Load", plan.load.short, size, "; ".join(notes))


def _keep(item: Item) -> PlanStep:
    note = "pinned" if item.role == "pinned" else "loaded by others"
    return PlanStep("keep", "keep", "Keep", item.short, f"{gb(item.bytes)}{NBSP}GB", note)


def _then(plan: Plan) -> PlanStep:
    prompts = f"{plan.warmups} prompt{'s' if plan.warmups != 1 else ''}"
    seconds = [
        plan.expected[p.value].seconds
        for p in (State.WARMING, State.VERIFYING)
        if p.value in plan.expected
    ]
    amount = _about(sum(seconds)) if seconds else ""
    point = f", then point {plan.published} at it" if plan.published else ""
    subject = f"warm up with {prompts} and verify{point}"
    note = "" if plan.blocked else plan.cannot_publish
    return PlanStep("then", "ok", "Then", subject, amount, note, is_model=False)


def _about(seconds: float) -> str:
    return f"about {span(seconds)}" if seconds >= 1 else f"under 1{NBSP}s"


def _blocked_because(plan: Plan, running: SwitchView | None, user: CurrentUser) -> str:
    if not user.can_switch:
        return CANNOT_SWITCH
    if plan.blocked:
        taken = plan.blocked == plan.cannot_publish
        pinned = [i.short for i in plan.keep if i.role == "pinned"]
        more = f" Unpin {', '.join(pinned)} or choose a smaller build." if pinned else ""
        return plan.blocked + (more if plan.short_bytes and not taken else "")
    if running is not None:
        return f"{plan.host} is switching. Wait for it, or cancel it first."
    return ""


def _already_switching(running: SwitchView) -> Notice:
    return Notice(
        "busy",
        f"{running.host} is already switching",
        f"to {running.to_model}, started by {running.actor} {span(running.elapsed_s)} ago. Wait or",
        f"/#switch-{running.id}",
        "watch it",
    )


def _failure(exc: SwitcherError) -> Notice:
    if not isinstance(exc, OllamaError):
        return Notice("failed", "No plan.", exc.text)
    silent = isinstance(exc, Unreachable | TimedOut)
    headline = "The host does not answer." if silent else "The host's answer could not be used."
    return Notice("failed", headline, f"{exc.text} {exc.advice}".rstrip())
