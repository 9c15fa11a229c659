"""A plan in words, as it stands on screen before anybody can run it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from switcher.domain.clock import system
from switcher.domain.errors import SwitcherError, SwitchRunning
from switcher.domain.model_names import ModelName
from switcher.domain.plans import Item, Plan
from switcher.domain.states import State, Strategy
from switcher.ollama.errors import OllamaError, TimedOut, Unreachable
from switcher.panel.filters import NBSP, gb, span
from switcher.panel.page import CANNOT_SWITCH, Me
from switcher.presentation.bars import Bar, plan_bars
from switcher.presentation.switches import SwitchView, switch_view, view_of
from switcher.queries.switches import open_switch_on
from switcher.switching import service
from switcher.switching.service import SwitchRequest
from switcher.switching.steps import DRAIN_S

STRATEGY_WORDS = {Strategy.OVERLAP: "Overlap", Strategy.SWAP: "Swap", Strategy.AUTO: "Auto"}


@dataclass(frozen=True, slots=True)
class Notice:
    """A sentence in place, beside its cause."""

    state: str
    strong: str
    text: str
    href: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the plan."""

    do: str  # unload, load, keep, then
    icon: str
    verb: str
    what: str
    figure: str
    why: str = ""
    is_model: bool = True


@dataclass(frozen=True, slots=True)
class Shown:
    """The plan with everything said about it. `why_not` blocks the button and says why."""

    host: str = ""
    model: str = ""
    simulated: bool = False
    plan: Plan | None = None
    notice: Notice | None = None
    why_not: str = ""
    headline: str = ""
    steps: tuple[Step, ...] = ()
    before: Bar | None = None
    after: Bar | None = None

    @property
    def names(self) -> tuple[str, ...]:
        plan = self.plan
        items = (plan.load, *plan.unload, *plan.keep, *plan.reload) if plan else ()
        return tuple({self.model, *(i.short for i in items)} - {""})

    @property
    def restore(self) -> str:
        return self.plan.restore.short if self.plan else ""

    @property
    def strategy_word(self) -> str:
        return STRATEGY_WORDS[self.plan.strategy] if self.plan else ""


NOTHING = Shown(why_not="There is no plan yet. Choose a host and a model, then refresh the plan.")


def show_plan(
    wish: SwitchRequest, me: Me, *, simulated: bool = False, notice: Notice | None = None
) -> Shown:
    """Plan a wish from a fresh reading of its host, and say why it cannot run if it cannot."""
    try:
        plan = service.plan(wish)
    except SwitcherError as exc:
        return Shown(
            host=wish.host,
            model=ModelName.parse(wish.model).short,
            notice=notice or _why(exc),
            why_not="There is no plan to run.",
        )
    found = open_switch_on(plan.host)
    running = view_of(found, system.now()) if found else None
    before, after = plan_bars(plan)
    return Shown(
        host=plan.host,
        model=plan.load.short,
        simulated=simulated,
        plan=plan,
        # A host that switches has changed too; that it switches says more.
        notice=_switching(running) if running else notice,
        why_not=_why_not(plan, running, me),
        headline=headline(plan),
        steps=_steps(plan),
        before=before,
        after=after,
    )


def after_start(host: str, model: str, switch_id: int) -> Shown:
    """What stands in the plan's place once it runs."""
    notice = Notice(
        "busy", f"Switch {switch_id} was started:", f"{host} to {model}.",
        f"#switch-{switch_id}", "Watch it",
    )  # fmt: skip
    return replace(NOTHING, host=host, model=model, notice=notice)


def refusal(exc: SwitcherError) -> Notice:
    """Why nothing was switched."""
    if isinstance(exc, SwitchRunning):
        return _switching(switch_view(exc.switch_id, system.now()))
    why = exc.text.removeprefix("Nothing was switched.").strip()
    return Notice("failed", "Nothing was switched.", f"{why} The plan below is new.")


def headline(plan: Plan) -> str:
    """The plan in one sentence: how long without a model, and what is in use then."""
    if plan.blocked:
        return plan.blocked
    if plan.already_active:
        return f"{plan.load.short} is active on {plan.host} already. It answers once, that is all."
    of = f" of {gb(plan.vram_bytes)}" if plan.vram_bytes else ""
    use = f"{gb(plan.bytes_after)}{of}{NBSP}GB in use"
    if plan.fits is False:
        use += f": {gb(plan.short_bytes)}{NBSP}GB too much, so part of it runs on the CPU"
    return f"{_gap(plan)}, then {use}."


def _gap(plan: Plan) -> str:
    if plan.strategy is Strategy.OVERLAP:
        took = f"About {span(plan.expected_s)}" if plan.expected_s else "Some time (not known yet)"
        return f"{took}, at no moment without a model" if plan.restore else took
    if plan.expected_s is None:
        return "Some time without an active model (not known yet how long)"
    return f"About {span(plan.expected_s)} without an active model"


def _steps(plan: Plan) -> tuple[Step, ...]:
    unload = [_unload(i, plan) for i in plan.unload]
    load = [_load(plan), *(_pinned(i) for i in plan.reload)]
    order = [*unload, *load] if plan.strategy is Strategy.SWAP else [*load, *unload]
    return (*order, *(_keep(i) for i in plan.keep), _then(plan))


def _unload(item: Item, plan: Plan) -> Step:
    why = item.why
    if not why and plan.strategy is Strategy.SWAP:
        why = f"after running replies end, {DRAIN_S:.0f}{NBSP}s at most"
    elif not why:
        why = "once the new one is active"
    return Step("unload", "minus", "Unload", item.short, f"{gb(item.bytes)}{NBSP}GB", why)


def _pinned(item: Item) -> Step:
    size = f"{gb(item.bytes)}{NBSP}GB" if item.bytes else "size not known"
    return Step("load", "plus", "Load", item.short, size, "pinned, and not loaded now")


def _load(plan: Plan) -> Step:
    if plan.stays:
        size = f"{gb(plan.load.bytes)}{NBSP}GB"
        return Step("keep", "keep", "Keep", plan.load.short, size, "active already")
    expected = plan.expected.get(State.LOADING.value)
    why = [f"about {span(expected.seconds)}, from {expected.source}"] if expected else []
    if plan.load.why and plan.load.bytes:
        why.append(f"size {plan.load.why.replace('about, ', 'estimated ')}")
    size = f"{gb(plan.load.bytes)}{NBSP}GB" if plan.load.bytes else "size not known"
    return Step("load", "plus", "Load", plan.load.short, size, "; ".join(why))


def _keep(item: Item) -> Step:
    why = "pinned" if item.role == "pinned" else "loaded by others"
    return Step("keep", "keep", "Keep", item.short, f"{gb(item.bytes)}{NBSP}GB", why)


def _then(plan: Plan) -> Step:
    prompts = f"{plan.warmups} prompt{'s' if plan.warmups != 1 else ''}"
    seconds = [
        plan.expected[p.value].seconds
        for p in (State.WARMING, State.VERIFYING)
        if p.value in plan.expected
    ]
    figure = _about(sum(seconds)) if seconds else ""
    point = f", then point {plan.published} at it" if plan.published else ""
    what = f"warm with {prompts} and verify{point}"
    why = "" if plan.blocked else plan.cannot_publish
    return Step("then", "ok", "Then", what, figure, why, False)


def _about(seconds: float) -> str:
    return f"about {span(seconds)}" if seconds >= 1 else f"under 1{NBSP}s"


def _why_not(plan: Plan, running: SwitchView | None, me: Me) -> str:
    if not me.can_switch:
        return CANNOT_SWITCH
    if plan.blocked:
        taken = plan.blocked == plan.cannot_publish
        pinned = [i.short for i in plan.keep if i.role == "pinned"]
        more = f" Unpin {', '.join(pinned)} or choose a smaller build." if pinned else ""
        return plan.blocked + (more if plan.short_bytes and not taken else "")
    if running is not None:
        return f"{plan.host} is switching. Wait for it, or cancel it first."
    return ""


def _switching(running: SwitchView) -> Notice:
    return Notice(
        "busy",
        f"{running.host} is already switching",
        f"to {running.to_model}, started by {running.actor} {span(running.elapsed_s)} ago. Wait or",
        f"/#switch-{running.id}",
        "watch it",
    )


def _why(exc: SwitcherError) -> Notice:
    if not isinstance(exc, OllamaError):
        return Notice("failed", "No plan.", exc.text)
    silent = isinstance(exc, Unreachable | TimedOut)
    strong = "The host does not answer." if silent else "The host answered, but not usably."
    return Notice("failed", strong, f"{exc.text} {exc.advice}".rstrip())
