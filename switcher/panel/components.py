"""Elements that repeat on the pages, as template tags that need no `{% load %}`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from django import template
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from switcher.panel.filters import ago, clock, iso, mono, since_s, span, until

register = template.Library()

# Most statuses have an icon of the same name.
STATUS_ICONS = {"ok": "active", "none": "x"}


@register.simple_tag
def icon(name: str) -> SafeString:
    """Render a symbol of `icons.html`. Screen readers read the word next to it instead."""
    return format_html('<svg class="ic" aria-hidden="true"><use href="#s-{}"/></svg>', name)


@register.simple_tag
def switch_icon(status_style: str, restored: Any = False) -> SafeString:
    """Render the icon of a switch. `restored` is set if it failed and the old model is back."""
    if restored and status_style == "failed":
        return icon("back")
    return icon(STATUS_ICONS.get(status_style, status_style))


@register.simple_tag
def badge(kind: str, words: str, icon_name: str = "") -> SafeString:
    """Render a small label, such as *pinned* or *overdue*."""
    symbol = icon(icon_name) if icon_name else ""
    return format_html('<span class="tag" data-kind="{}">{}{}</span>', kind, symbol, words)


@register.simple_tag
def simulated_badge() -> SafeString:
    """Render the label of a simulated host, which is shown wherever the host is mentioned."""
    return badge("sim", "simulated host", "sim")


@register.simple_tag
def state(style: str, words: str, icon_name: str = "") -> SafeString:
    """Render a state in its colour, with its icon and its word."""
    symbol = icon(icon_name or style)
    return format_html('<span class="state" data-state="{}">{}{}</span>', style, symbol, words)


@register.simple_tag
def disk_state(style: str, words: str) -> SafeString:
    """Render where a model is: active, loaded, on disk or missing."""
    return state(style, words, "idle" if style == "none" else style)


@register.simple_tag
def column(words: str = "", *, numeric: bool = False, hidden: bool = False) -> SafeString:
    """Render the head of a table column. Only screen readers read `hidden` ones."""
    kind = SafeString(' class="num"') if numeric else ""
    shown = format_html('<span class="vh">{}</span>', words) if hidden else words
    return format_html('<th role="columnheader" scope="col"{}>{}</th>', kind, shown)


@register.simple_tag
def table_head(caption: str, *columns: str) -> SafeString:
    """Render the heads of a table, and its caption, which only screen readers read."""
    return format_html(
        '<caption class="vh">{}</caption><thead role="rowgroup"><tr role="row">{}</tr></thead>',
        caption,
        format_html_join("", "{}", ((column(words),) for words in columns)),
    )


@register.simple_tag
def crumbs(section: str, current: str, host: str = "") -> SafeString:
    """Render the way to a page: its section, named like the section's address, then the host."""
    links = [(reverse(section), section.capitalize())]
    if host:
        links.append((reverse("host", args=[host]), host))
    return format_html(
        '<nav aria-label="Breadcrumb"><ol class="crumbs">{}'
        '<li aria-current="page">{}</li></ol></nav>',
        format_html_join("", '<li><a href="{}">{}</a></li>', links),
        current,
    )


@register.simple_tag
def legend(kind: str, words: str) -> SafeString:
    """Render one item of the key to the VRAM bars."""
    swatch = "free" if kind == "free" else f"seg seg-{kind}"
    return format_html(
        '<li><svg aria-hidden="true"><rect class="{}" width="12" height="12"/></svg>{}</li>',
        swatch,
        words,
    )


@register.simple_tag
def time_at(moment: datetime | None) -> SafeString:
    """Render a time of day: 14:31:54, UTC."""
    return _time("", moment, clock(moment))


@register.simple_tag
def time_ago(moment: datetime | None, now: datetime) -> SafeString:
    """Render how long ago a moment was. `switchboard.js` keeps it up to date."""
    return _time("data-relative", moment, ago(moment, now))


@register.simple_tag
def time_left_until(moment: datetime | None, now: datetime) -> SafeString:
    """Render how long it is until a moment. `switchboard.js` counts it down."""
    return _time("data-countdown", moment, until(moment, now))


@register.simple_tag
def time_since(moment: datetime | None, now: datetime) -> SafeString:
    """Render how long something has been going on. `switchboard.js` counts it up."""
    return _time("data-elapsed", moment, span(since_s(moment, now)))


@register.simple_tag
def time_left(switch: Any) -> SafeString:
    """Render how much longer a switch will take. `switchboard.js` keeps it up to date."""
    words = f"longer than usual ({span(switch.expected_s)})"
    if switch.left_s > 0:
        words = f"about {span(switch.left_s)} left"
    return format_html(
        '<time data-left="{}" datetime="{}">{}</time>',
        f"{switch.expected_s:.1f}",
        iso(switch.created_at),
        words,
    )


def _time(attribute: str, moment: datetime | None, words: str) -> SafeString:
    marker = format_html("{} ", attribute) if attribute else ""
    return format_html('<time {}datetime="{}">{}</time>', marker, iso(moment), words)


@register.simple_block_tag
def notice(content: str, style: str, icon_name: str = "", *, focus_id: str = "") -> SafeString:
    """Render a sentence next to its cause. One with `focus_id` can take the focus."""
    return format_html(
        '<div class="notice{}" data-state="{}"{}>{}<p>{}</p></div>',
        " standalone" if focus_id else "",
        style,
        format_html(' id="{}" tabindex="-1"', focus_id) if focus_id else "",
        icon(icon_name or style),
        SafeString(content.strip()),
    )


@register.simple_tag
def plan_url(host: str, *, profile: str = "", model: str = "") -> str:
    """Return the address of a plan for a host, with a profile or with a model without one."""
    query = {"host": host}
    if profile or model:
        query["profile"] = profile or f"={model}"
    return f"{reverse('plan')}?{urlencode(query)}#quick-switch"


@register.simple_tag
def model_names(models: Iterable[Any], otherwise: str = "") -> SafeString:
    """Render names of models, separated by commas; `otherwise` if there are none."""
    names = [getattr(model, "name", model) for model in models]
    return format_html_join(", ", "{}", ((mono(name),) for name in names)) or SafeString(otherwise)


@register.inclusion_tag("components/select.html")
def filter_select(
    name: str, label: str, choices: Any, chosen: str, otherwise: str = "Any", error: str = ""
) -> dict[str, Any]:
    """Render a filter of a list: one of the values, or any. A dictionary has words for each."""
    pairs = choices.items() if isinstance(choices, Mapping) else [(c, c) for c in choices]
    return {
        "name": name,
        "label": label,
        "pairs": list(pairs),
        "chosen": chosen,
        "otherwise": otherwise,
        "error": error,
    }


@register.inclusion_tag("components/input.html")
def filter_input(
    name: str, label: str, value: str, kind: str = "search", **more: Any
) -> dict[str, Any]:
    """Render a filter of a list: text or a moment, with its `error` and `choices` if there are."""
    return {"name": name, "label": label, "value": value, "kind": kind, **more}


@register.inclusion_tag("components/form_errors.html")
def form_errors(form: Any, headline: str = "Nothing was saved.") -> dict[str, Any]:
    """Render a form's errors, above it."""
    return {"form": form, "headline": headline}


@register.inclusion_tag("components/field.html")
@register.inclusion_tag("components/checkboxes.html", name="checkboxes")
@register.inclusion_tag("components/check.html", name="check")
def field(bound: Any) -> dict[str, Any]:
    """Render a form's field with its label, errors and help text: `check` as one checkbox, and
    `checkboxes` as several, of which any number can be chosen."""
    return {"field": bound}


@register.inclusion_tag("components/bar.html")
def vram_bar(bar: Any, *, large: bool = False) -> dict[str, Any]:
    """Render the memory of a host as a bar of models."""
    return {"bar": bar, "large": large}
