"""What is said to who listens: one sentence a phase, never seconds."""

from __future__ import annotations

from django.utils.html import escape

from switcher.domain.states import State
from switcher.live.fragments import inner
from switcher.presentation.switches import SwitchView

Said = dict[int, str]

_PHASES = {
    State.QUEUED: "{host}: switch to {model} asked for by {actor}.",
    State.CHECKING: "{host}: checking.",
    State.DRAINING: "{host}: waiting for running replies.",
    State.LOADING: "{host}: loading {model}.",
    State.WARMING: "{host}: warming {model}.",
    State.VERIFYING: "{host}: verifying {model}.",
    State.ACTIVATING: "{host}: activating {model}.",
    State.UNLOADING: "{host}: unloading.",
    State.RESTORING: "{host}: bringing back what was loaded before.",
}


def states_of(views: tuple[SwitchView, ...]) -> Said:
    """What there is to say of these switches, by id, to compare with the next time."""
    return {v.id: v.state for v in views}


def sentences(before: Said, views: tuple[SwitchView, ...]) -> str:
    """What pages are told aloud: the changes of phase since `before`, as fragments."""
    changed = [v for v in views if before.get(v.id) != v.state and (v.is_open or v.id in before)]
    calm = [sentence(v) for v in changed if not _alarms(v)]
    alarms = [sentence(v) for v in changed if _alarms(v)]
    return _spoken("announcer", calm) + _spoken("alarm", alarms)


def sentence(view: SwitchView) -> str:
    """One sentence for the state that a switch is in now."""
    if not view.is_open:
        return _end(view)
    text = _PHASES[view.state]
    return text.format(host=view.host, model=view.to_model, actor=view.actor)


def _end(view: SwitchView) -> str:
    if view.look == "ok":
        return f"{view.host}: {view.to_model} is active."
    if view.look == "none":
        return f"{view.host}: the switch was cancelled. {view.outcome}".strip()
    return (
        f"{view.host}: {view.to_model} did not become active. {view.error} {view.outcome}".strip()
    )


def _alarms(view: SwitchView) -> bool:
    return view.look == "failed" or view.restoring


def _spoken(element_id: str, said: list[str]) -> str:
    return inner(element_id, f"<p>{escape(' '.join(said))}</p>").html if said else ""
