"""Switches: list, show, cancel, and mark a failure as seen."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_POST, require_safe

from switcher.domain.clock import system
from switcher.domain.errors import Conflict
from switcher.panel.forms.switches import SwitchFilterForm
from switcher.panel.page import (
    actor_of,
    is_htmx,
    operators_only,
    render_page,
    staff_only,
    whole_number,
)
from switcher.presentation.switches import line_of, switch_view
from switcher.queries.switches import OUTCOMES, neighbours, switch_page
from switcher.records import switches as records
from switcher.switching import service


@require_safe
@staff_only
def switch_list(request: HttpRequest) -> HttpResponse:
    """List the switches that match the filters in the address."""
    form = SwitchFilterForm(request.GET)
    filters = form.filters()
    page = switch_page(filters, whole_number(request, "before"), whole_number(request, "after"))
    now = system.now()
    kept = {k: str(v) for k, v in request.GET.items() if v and k in form.fields}
    context = {
        "page": page,
        "lines": [line_of(row, now) for row in page.rows],
        "filters": filters,
        "form": form,
        "outcomes": {name: name.capitalize() for name in OUTCOMES},
        "query": urlencode(kept),
        "first_page": not (request.GET.get("before") or request.GET.get("after")),
    }
    list_only = request.headers.get("HX-Target") == "switch-list"
    template = "switches.html#list" if list_only else "switches.html"
    return render_page(request, template, context, section="switches")


@require_safe
@staff_only
def switch(request: HttpRequest, switch_id: int) -> HttpResponse:
    """Show one switch: its outcome, timeline, before and after, and record."""
    view = switch_view(switch_id, system.now())
    earlier, later = neighbours(switch_id, view.host_id)
    context = {"switch": view, "now": view.now, "earlier": earlier, "later": later}
    return render_page(request, "switch.html", context, section="switches")


@require_safe
@staff_only
def panel(request: HttpRequest, switch_id: int) -> HttpResponse:
    """Show the panel of one switch, as on the board."""
    return _show_panel(request, switch_id)


@require_POST
@operators_only
def cancel(request: HttpRequest, switch_id: int) -> HttpResponseBase:
    """Cancel an open switch. The worker restores the old models."""
    try:
        service.cancel(switch_id, actor_of(request))
    except Conflict as exc:
        messages.warning(request, exc.text)
    return _back(request, switch_id, f"{reverse('board')}#switch-{switch_id}")


@require_POST
@operators_only
def mark_seen(request: HttpRequest, switch_id: int) -> HttpResponseBase:
    """Mark a failure as seen, so that the board stops pointing to it."""
    records.mark_seen(switch_id, actor_of(request))
    return _back(request, switch_id, reverse("switch", args=[switch_id]))


def _back(request: HttpRequest, switch_id: int, address: str) -> HttpResponseBase:
    return _show_panel(request, switch_id) if is_htmx(request) else redirect(address)


def _show_panel(request: HttpRequest, switch_id: int) -> HttpResponse:
    view = switch_view(switch_id, system.now())
    return render_page(request, "switch_panel.html", {"switch": view, "now": view.now})
