"""Sentences that screen readers announce: one for each phase of a switch, without seconds."""

from __future__ import annotations

from django.utils.html import escape

from switcher.domain.states import State
from switcher.live.fragments import inner
from switcher.presentation.switches import SwitchView

States = dict[int, str]

_PHASES = {
    State.QUEUED: "{host}: switch to {model} requested by {actor}.",
    State.CHECKING: "{host}: checking.",
    State.DRAINING: "{host}: waiting for running replies.",
    State.LOADING: "{host}: loading {model}.",
    State.WARMING: "{host}: warming {model}.",
    State.VERIFYING: "{host}: verifying {model}.",
    State.ACTIVATING: "{host}: activating {model}.",
    State.UNLOADING: "{host}: unloading.",
    State.RESTORING: "{host}: bringing back what was loaded before.",
}


def states_of(views: tuple[SwitchView, ...]) -> States:
    """Return the states of these switches by id, for the next comparison."""
    return {v.id: v.state for v in views}


def announce(before: States, views: tuple[SwitchView, ...]) -> str:
    """Return fragments that announce the changes of state since `before`."""
    changed = [v for v in views if before.get(v.id) != v.state and (v.is_open or v.id in before)]
    polite = [sentence(v) for v in changed if not _is_alarm(v)]
    alarms = [sentence(v) for v in changed if _is_alarm(v)]
    return _fragment("announcer", polite) + _fragment("alarm", alarms)


def sentence(view: SwitchView) -> str:
    """Return one sentence for the state that a switch is in."""
    if not view.is_open:
        return _end(view)
    text = _PHASES[view.state]
    return text.format(host=view.host, model=view.to_model, actor=view.actor)


def _end(view: SwitchView) -> str:
    if view.status_style == "ok":
        return f"{view.host}: {view.to_model} is active."
    if view.status_style == "none":
        return f"{view.host}: the switch was cancelled. {view.outcome}".strip()
    return (
        f"{view.host}: {view.to_model} did not become active. {view.error} {view.outcome}".strip()
    )


def _is_alarm(view: SwitchView) -> bool:
    return view.status_style == "failed" or view.restoring


def _fragment(element_id: str, sentences: list[str]) -> str:
    return inner(element_id, f"<p>{escape(' '.join(sentences))}</p>").html if sentences else ""
