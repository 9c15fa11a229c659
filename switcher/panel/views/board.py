"""The board, the plan, and asking for a switch."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe
from django_htmx.http import reswap, retarget, trigger_client_event

from switcher.audit import health
from switcher.domain.clock import system
from switcher.domain.errors import SwitcherError, SwitchRunning
from switcher.domain.model_names import ModelName
from switcher.panel.forms import HostForm, WishForm
from switcher.panel.page import Me, actor_of, is_htmx, me_of, operators, show, staff
from switcher.panel.planning import NOTHING, Notice, Shown, after_start, refusal, show_plan
from switcher.presentation.board import Board
from switcher.presentation.board import board as read_board
from switcher.presentation.switches import switch_view
from switcher.queries.hosts import hosts
from switcher.queries.switches import switch_detail
from switcher.switching import service
from switcher.watching.loop import latest

STRATEGIES = (
    ("", "Auto: what fits"),
    ("overlap", "Overlap: load, then unload"),
    ("swap", "Swap: unload, then load"),
)


@require_safe
@staff
def board(request: HttpRequest) -> HttpResponse:
    """Hosts, running switches, the form, the last switches."""
    return show_board(request, WishForm(request.GET or None))


@require_safe
@staff
def plan(request: HttpRequest) -> HttpResponseBase:
    """The plan of what the form says: the fragment, or the board with it."""
    if "csrfmiddlewaretoken" in request.GET:
        # A plain form sends its token along; it has no place in an address.
        query = request.GET.copy()
        for name in ("csrfmiddlewaretoken", "plan"):
            query.pop(name, None)
        return redirect(f"{request.path}?{query.urlencode()}")
    form = WishForm(request.GET)
    if is_htmx(request):
        return _plan_fragment(request, _plan_of(form, me_of(request)))
    return show_board(request, form, with_plan=True)


@require_POST
@operators
def switch(request: HttpRequest) -> HttpResponseBase:
    """Run exactly the plan whose token is sent along; if the host changed, nothing."""
    form = WishForm(request.POST)
    token = request.POST.get("plan", "")
    if not token:
        notice = Notice("failed", "Nothing was switched.", "Read the plan first, then switch.")
        return _refuse(request, form, notice, 400)
    wish = form.wish()
    try:
        row, _ = service.request_switch(wish, actor_of(request), plan_token=token)
        switch_id = row.pk
    except SwitchRunning as exc:
        if not _is_same(exc.switch_id, request, token):
            return _refuse(request, form, refusal(exc), 409)
        switch_id = exc.switch_id  # a second click: it gets the switch that the first one made
    except SwitcherError as exc:
        return _refuse(request, form, refusal(exc), 409)
    if is_htmx(request):
        return _started(request, switch_id)
    return redirect(f"{reverse('board')}#switch-{switch_id}")


def show_board(
    request: HttpRequest,
    form: WishForm,
    *,
    with_plan: bool = False,
    shown: Shown = NOTHING,
    status: int = 200,
) -> HttpResponse:
    """The board as a whole page; on first run what to do first."""
    now = system.now()
    facts = read_board(now, latest(), health.problems())
    if not facts.hosts:
        return show(request, "first_run.html", {"form": HostForm(), "now": now}, here="board")
    wish = form.chosen(facts)
    if with_plan:
        me = me_of(request)
        shown = show_plan(wish.to_wish(), me, simulated=_simulated(facts, wish.host))
    context = {"board": facts, "now": now, "wish": wish, "shown": shown, "strategies": STRATEGIES}
    return show(request, "board.html", context, here="board", status=status)


def _plan_of(form: WishForm, me: Me, notice: Notice | None = None) -> Shown:
    wish = form.wish()
    simulated = bool(wish.host) and _host_is_simulated(wish.host)
    return show_plan(wish, me, simulated=simulated, notice=notice)


def _plan_fragment(request: HttpRequest, shown: Shown) -> HttpResponse:
    return show(request, "plan.html#refreshed", {"shown": shown})


def _refuse(request: HttpRequest, form: WishForm, notice: Notice, status: int) -> HttpResponseBase:
    """Say why nothing was switched, above a new plan."""
    shown = _plan_of(form, me_of(request), notice)
    if not is_htmx(request):
        return show_board(request, form, shown=shown, status=status)
    # htmx swaps only what succeeded; the refusal is in the fragment itself.
    response = reswap(retarget(_plan_fragment(request, shown), "#plan"), "outerHTML")
    return trigger_client_event(response, "focus-on", {"id": "plan-notice"}, after="swap")


def _started(request: HttpRequest, switch_id: int) -> HttpResponse:
    """The panels with the new one, and a note in the plan's place."""
    facts = read_board(system.now(), latest(), health.problems())
    view = switch_view(switch_id, facts.now)
    shown = after_start(view.host, ModelName.parse(view.to_model).short, switch_id)
    context: dict[str, Any] = {"board": facts, "shown": shown, "now": facts.now}
    response = show(request, "board.html#started", context)
    heading = {"id": f"switch-{switch_id}-h"}
    return trigger_client_event(response, "focus-on", heading, after="swap")


def _is_same(switch_id: int, request: HttpRequest, token: str) -> bool:
    running = switch_detail(switch_id)
    return running.plan_token == token and running.actor == request.user.get_username()


def _simulated(facts: Board, host: str) -> bool:
    return any(h.simulated for h in facts.hosts if h.name == host)


def _host_is_simulated(name: str) -> bool:
    return any(host.simulated for host in hosts() if host.name == name)
