"""Sentences with several cases, as template tags. Built in: no `load` is needed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django import template
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from switcher.domain.wording import NBSP
from switcher.panel.components import (
    badge,
    icon,
    state,
    time_ago,
    time_left_until,
    time_since,
)
from switcher.panel.filters import clock, day, gb, iso, mono, span, thousands, took

register = template.Library()

NOTHING = SafeString("")
PHASE_ICONS = {"done": "ok", "failed": "x"}
# Read after the name of a phase by screen readers, in place of its icon.
PHASE_STATUS = {
    "done": ", done:",
    "now": ", under way:",
    "failed": ", stopped here:",
    "todo": ", not started:",
}


@register.simple_tag
def switch_news(switch: Any) -> SafeString:
    """Say what happened in a switch: gemma2:27b active after 24.4 s."""
    model = mono(switch.to_model)
    match switch.status_style:
        case "busy":
            return format_html("switch to {} started", model)
        case "ok":
            lost = ", then lost" if switch.degraded else ""
            return format_html("{} active after {}{}", model, took(switch.elapsed_s), lost)
        case "none":
            return format_html("switch to {} cancelled{}", model, _old_model(switch))
    lost = ", not restored" if switch.degraded else ""
    return format_html("switch to {} failed{}{}", model, lost, _old_model(switch))


def _old_model(switch: Any) -> SafeString:
    if not switch.old_stays:
        return NOTHING
    verb = "restored" if switch.restored else "stays"
    return format_html(", {} {}", mono(switch.old_stays), verb)


@register.simple_tag
def host_outlook(host: Any) -> SafeString:
    """Say what happens next on a host: when its switch ends, or when its model is unloaded."""
    if host.switch:
        return _switch_outlook(host)
    if host.state == "offline":
        if not host.read_at:
            return SafeString("never answered")
        return format_html("no answer for {}", time_since(host.read_at, host.now))
    if not host.model:
        return SafeString("loads on first use" if host.active else "nothing active")
    if host.stays:
        return SafeString("stays loaded")
    if not host.unloads_at:
        return NOTHING
    if host.unloads_at <= host.now:
        return SafeString("due to unload")
    return format_html("unloads in {}", time_left_until(host.unloads_at, host.now))


def _switch_outlook(host: Any) -> SafeString:
    if host.switch.left_s and host.switch.left_s > 0:
        return time_left(host.switch)
    return format_html("{} elapsed", time_since(host.switch.created_at, host.now))


@register.simple_tag
def time_left(switch: Any) -> SafeString:
    """Say how much longer a switch will take. `switchboard.js` keeps it up to date."""
    words = f"longer than usual ({span(switch.expected_s)})"
    if switch.left_s > 0:
        words = f"about {span(switch.left_s)} left"
    return format_html(
        '<time data-left="{}" datetime="{}">{}</time>',
        f"{switch.expected_s:.1f}",
        iso(switch.created_at),
        words,
    )


@register.simple_tag
def phase_icon(state: str) -> SafeString:
    """Render the icon of a phase. Only phases that are over have one."""
    return icon(PHASE_ICONS[state]) if state in PHASE_ICONS else NOTHING


@register.simple_tag
def phase_status(state: str) -> str:
    """Say how far a phase is, for screen readers."""
    return PHASE_STATUS.get(state, "")


@register.simple_tag
def phase_time(phase: Any, switch: Any) -> SafeString | str:
    """Say how long a phase took, takes or will take."""
    expected = phase.expected_s or 0
    match phase.state:
        case "done":
            return NOTHING if phase.seconds is None else took(phase.seconds)
        case "now":
            of = format_html(" <span>of about {}</span>", span(expected)) if expected >= 1 else ""
            return format_html("<span>{}</span>{}", time_since(phase.began_at, switch.now), of)
        case "failed":
            return f"after {took(phase.seconds)}"
        case "todo":
            return f"about {span(expected)}" if expected >= 1 else NOTHING
    return "not needed" if switch.state == "active" else "not reached"


@register.simple_tag
def board_summary(board: Any) -> SafeString:
    """Say how many hosts answer, and which of them need attention."""
    hosts = f"{board.answering} of {_counted(len(board.hosts), 'host')}"
    verb = "answers" if len(board.hosts) == 1 else "answer"
    sentences: list[SafeString | str] = [f"{hosts} {verb}."]
    if board.running:
        verb = "is" if board.running == 1 else "are"
        sentences.append(f"{_counted(board.running, 'switch', 'es')} {verb} running.")
    names = board.need_attention
    if names:
        need = "needs" if len(names) == 1 else "need"
        links = format_html_join(
            ", ",
            '<a id="look-{}" href="#h-{}">{}</a>',
            ((name, name, name) for name in names),
        )
        count = _counted(len(names), "host")
        sentences.append(format_html("{} {} attention: {}.", count, need, links))
    elif not board.running and not board.alarms:
        sentences.append("Nothing needs attention.")
    sentences += [
        format_html("{}<strong>{}</strong>", icon("failed"), text) for text in board.alarms
    ]
    return format_html_join(" ", "{}", ((sentence,) for sentence in sentences))


def _counted(count: int, noun: str, plural: str = "s") -> str:
    return f"{count} {noun}{'' if count == 1 else plural}"


@register.filter
def key_limits(key: Any) -> str:
    """Return the limits of a key: 60 per minute, 4 concurrent."""
    limits = []
    if key.requests_a_minute:
        limits.append(f"{thousands(key.requests_a_minute)} per minute")
    if key.at_once:
        limits.append(f"{thousands(key.at_once)} concurrent")
    return ", ".join(limits)


@register.filter
def floors(profile: Any) -> str:
    """Return the minimums of a profile: 95 % on GPU, 20 tokens/s."""
    demands = []
    if profile.min_gpu_percent:
        demands.append(f"{profile.min_gpu_percent}{NBSP}% on GPU")
    if profile.min_tokens_per_s:
        demands.append(f"{profile.min_tokens_per_s}{NBSP}tokens/s")
    return ", ".join(demands)


@register.simple_tag
def resident_state(model: Any) -> SafeString:
    """Render why a model is loaded on a host."""
    match model.kind:
        case "active":
            return state("active", "Active")
        case "pin":
            return badge("pin", "pinned", "pin")
        case "ghost":
            return badge("ghost", model.ghost)
    return state("idle", "Loaded by others")


@register.simple_tag
def gpu_share(model: Any) -> SafeString | str:
    """Render the share of a model on the GPU, as a warning if that makes it slow."""
    share = f"{model.gpu_percent}{NBSP}%"
    return state("warning", share) if model.slow else share


@register.simple_tag
def unloads(model: Any, now: datetime) -> SafeString:
    """Render when the keep-alive of a model ends."""
    if model.stays:
        return SafeString('never<span class="sub">keep-alive forever</span>')
    if not model.expires_at:
        return SafeString("–")
    when = time_ago(model.expires_at, now)
    if model.expires_at > now:
        when = format_html("in {}", time_left_until(model.expires_at, now))
    return format_html('{}<span class="sub">{}</span>', when, clock(model.expires_at))


@register.simple_tag
def loaded_models(models: Iterable[Any]) -> SafeString:
    """Render models with their size and their share on the GPU."""
    rows = ((mono(m.name), gb(m.size), m.gpu_percent) for m in models)
    line = f"{{}}, {{}}{NBSP}GB, {{}}{NBSP}% on GPU"
    return format_html_join("; ", line, rows) or SafeString("nothing")


@register.filter
def duration_words(switch: Any) -> str:
    """Return how long a switch took, how long of it without a model, and its estimate."""
    if switch.is_open:
        return "So far"
    words = f"{took(switch.elapsed_s)} in all"
    if switch.without_model_s:
        words += f", {took(switch.without_model_s)} of it without an active model"
    if switch.expected_s:
        words += f"; the plan estimated about {span(switch.expected_s)}"
    return f"{words}. The upright line marks the usual end."


@register.filter
def key_scope(key: Any) -> str:
    """Return which models a key may use, and whether it may change hosts."""
    models = "any model" if key.all_profiles else ", ".join(key.profiles) or "no model left"
    return f"{models}; may change hosts" if key.manage else models


@register.filter
def filter_words(filters: dict[str, str]) -> str:
    """Return the filters of a printed list."""
    if not filters:
        return "No filter."
    return f"Filter: {', '.join(f'{name} {value}' for name, value in filters.items())}."


@register.filter
def history_words(history: Any) -> str:
    """Return the entries of a person or a host: how many, since when, and how switches ended."""
    count = f"{'more than ' if history.more else ''}{thousands(history.count)}"
    noun = "entry" if history.count == 1 else "entries"
    last = f"{day(history.last)} at {clock(history.last)}"
    words = f"{count} {noun}, the first on {day(history.first)}, the last on {last}."
    if history.ended:
        among = f" among the last {thousands(history.count)}" if history.more else ""
        ends = (f"{thousands(number)} {end.lower()}" for end, number in history.ended)
        words += f" Switches{among}: {', '.join(ends)}."
    return words[0].upper() + words[1:]
