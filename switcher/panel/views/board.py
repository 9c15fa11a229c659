"""The board, the plan, and the start of a switch."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe
from django_htmx.http import reswap, retarget, trigger_client_event

from switcher import access
from switcher.audit import health
from switcher.domain.clock import system
from switcher.domain.errors import SwitcherError, SwitchRunning
from switcher.panel.forms.config import STRATEGIES, HostForm
from switcher.panel.forms.switches import completed, sent_request
from switcher.panel.page import (
    actor_of,
    is_htmx,
    operators_only,
    render_page,
    staff_only,
)
from switcher.panel.plan_preview import NO_PLAN, PlanPreview, preview_plan, refusal
from switcher.presentation.board import board as read_board
from switcher.presentation.hosts import Note
from switcher.presentation.switches import switch_view
from switcher.queries.hosts import hosts
from switcher.queries.switches import switch_detail
from switcher.switching import service
from switcher.switching.service import SwitchRequest
from switcher.watching.loop import latest


@require_safe
@staff_only
def board(request: HttpRequest) -> HttpResponse:
    """Show hosts, running switches, the switch form and the latest switches."""
    return _show_board(request, sent_request(request.GET))


@require_safe
@staff_only
def plan(request: HttpRequest) -> HttpResponseBase:
    """Show the plan for the chosen switch: as a fragment, or on the board."""
    if "csrfmiddlewaretoken" in request.GET:
        # A form without script sends its token too. It must not stay in the address.
        query = request.GET.copy()
        for name in ("csrfmiddlewaretoken", "plan"):
            query.pop(name, None)
        return redirect(f"{request.path}?{query.urlencode()}")
    choice = sent_request(request.GET)
    if is_htmx(request):
        return _plan_fragment(request, _preview(request, choice))
    return _show_board(request, choice, with_plan=True)


@require_POST
@operators_only
def switch(request: HttpRequest) -> HttpResponseBase:
    """Run exactly the plan with the submitted token; nothing, if the host has changed."""
    choice = sent_request(request.POST)
    token = request.POST.get("plan", "")
    if not token:
        notice = Note(
            "failed", "Read the plan first, then switch.", headline="Nothing was switched."
        )
        return _refuse(request, choice, notice, 400)
    try:
        row, _ = service.request_switch(choice, actor_of(request), plan_token=token)
        switch_id = row.pk
    except SwitchRunning as exc:
        if not _is_same(exc.switch_id, request, token):
            return _refuse(request, choice, refusal(exc), 409)
        switch_id = exc.switch_id  # a second click gets the switch that the first one started
    except SwitcherError as exc:
        return _refuse(request, choice, refusal(exc), 409)
    if is_htmx(request):
        return _started(request, switch_id)
    return redirect(f"{reverse('board')}#switch-{switch_id}")


def _show_board(
    request: HttpRequest,
    choice: SwitchRequest,
    *,
    with_plan: bool = False,
    preview: PlanPreview = NO_PLAN,
    status: int = 200,
) -> HttpResponse:
    """Show the whole board or, if there is no host yet, what to do first."""
    now = system.now()
    facts = read_board(now, latest(), health.problems())
    if not facts.hosts:
        context = {"form": HostForm(), "now": now}
        return render_page(request, "first_run.html", context, section="board")
    choice = completed(choice, facts)
    context = {
        "board": facts,
        "now": now,
        "choice": choice,
        "chosen": f"={choice.model}" if choice.model else choice.profile,
        "preview": _preview(request, choice) if with_plan else preview,
        "strategies": [("", STRATEGIES[0][1]), *STRATEGIES[1:]],
    }
    return render_page(request, "board.html", context, section="board", status=status)


def _preview(
    request: HttpRequest, choice: SwitchRequest, notice: Note | None = None
) -> PlanPreview:
    simulated = any(host.simulated for host in hosts() if host.name == choice.host)
    can_switch = access.can_switch(request.user)
    return preview_plan(choice, can_switch, simulated=simulated, notice=notice)


def _plan_fragment(request: HttpRequest, preview: PlanPreview) -> HttpResponse:
    return render_page(request, "plan.html#refreshed", {"preview": preview})


def _refuse(
    request: HttpRequest, choice: SwitchRequest, notice: Note, status: int
) -> HttpResponseBase:
    """Show why nothing was switched, above a new plan."""
    preview = _preview(request, choice, notice)
    if not is_htmx(request):
        return _show_board(request, choice, preview=preview, status=status)
    # htmx swaps only successful answers, so this one is a 200 whose text says what failed.
    response = reswap(retarget(_plan_fragment(request, preview), "#plan"), "outerHTML")
    return trigger_client_event(response, "focus-on", {"id": "plan-notice"}, after="swap")


def _started(request: HttpRequest, switch_id: int) -> HttpResponse:
    """Show the panels with the new switch, and a note in the plan's place."""
    facts = read_board(system.now(), latest(), health.problems())
    view = switch_view(switch_id, facts.now)
    context = {"board": facts, "started": view, "now": facts.now}
    response = render_page(request, "board.html#started", context)
    heading = {"id": f"switch-{switch_id}-h"}
    return trigger_client_event(response, "focus-on", heading, after="swap")


def _is_same(switch_id: int, request: HttpRequest, token: str) -> bool:
    running = switch_detail(switch_id)
    return running.plan_token == token and running.actor == request.user.get_username()
