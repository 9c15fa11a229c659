"""Switches: the list, one of them, cancelling, and having seen a failure."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_POST, require_safe

from switcher.domain.clock import system
from switcher.domain.errors import Conflict
from switcher.panel.forms import FilterForm
from switcher.panel.page import actor_of, is_htmx, operators, show, staff
from switcher.presentation.switches import by_day, line_of, switch_view
from switcher.queries.switches import OUTCOMES, neighbours, switch_page
from switcher.records import switches as records
from switcher.switching import service


@require_safe
@staff
def switch_list(request: HttpRequest) -> HttpResponse:
    """All switches, narrowed by what the address says."""
    form = FilterForm(request.GET)
    filters = form.filters()
    page = switch_page(filters, _number(request, "before"), _number(request, "after"))
    now = system.now()
    kept = {k: str(v) for k, v in request.GET.items() if v and k in form.fields}
    context = {
        "page": page,
        "days": by_day(line_of(row, now) for row in page.rows),
        "filters": filters,
        "form": form,
        "outcomes": tuple(OUTCOMES),
        "query": urlencode(kept),
        "first_page": not (request.GET.get("before") or request.GET.get("after")),
    }
    list_only = request.headers.get("HX-Target") == "switch-list"
    template = "switches.html#list" if list_only else "switches.html"
    return show(request, template, context, here="switches")


@require_safe
@staff
def switch(request: HttpRequest, switch_id: int) -> HttpResponse:
    """One switch: how it ended, its timeline, before and after, who, the record."""
    view = switch_view(switch_id, system.now())
    earlier, later = neighbours(switch_id, view.host_id)
    context = {"switch": view, "now": view.now, "earlier": earlier, "later": later}
    return show(request, "switch.html", context, here="switches")


@require_safe
@staff
def panel(request: HttpRequest, switch_id: int) -> HttpResponse:
    """The panel of one switch, as it stands on the board."""
    return panel_part(request, switch_id)


@require_POST
@operators
def cancel(request: HttpRequest, switch_id: int) -> HttpResponseBase:
    """Ask for the end of a running switch; the old state is brought back first."""
    try:
        service.cancel(switch_id, actor_of(request))
    except Conflict as exc:
        messages.warning(request, exc.text, extra_tags="")
    return _back(request, switch_id, f"{reverse('board')}#switch-{switch_id}")


@require_POST
@operators
def seen(request: HttpRequest, switch_id: int) -> HttpResponseBase:
    """Somebody looked at a failure: the board stops pointing to it."""
    records.mark_seen(switch_id, actor_of(request))
    return _back(request, switch_id, reverse("switch", args=[switch_id]))


def _back(request: HttpRequest, switch_id: int, address: str) -> HttpResponseBase:
    return panel_part(request, switch_id) if is_htmx(request) else redirect(address)


def panel_part(request: HttpRequest, switch_id: int) -> HttpResponse:
    view = switch_view(switch_id, system.now())
    return show(request, "switch_panel.html", {"switch": view, "now": view.now})


def _number(request: HttpRequest, name: str) -> int | None:
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None
