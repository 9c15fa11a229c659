"""What the clients of a host get. Staff see it, admins change it."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST

from switcher.domain.clock import system
from switcher.domain.errors import BadRequest, SwitcherError
from switcher.panel.forms.gateway import ClientsForm
from switcher.panel.page import actor_of, admins_only, render_page, staff_only
from switcher.presentation.clients import ClientsPage, clients_page
from switcher.queries import keys, profiles
from switcher.records.clients import set_clients
from switcher.switching import published_name
from switcher.watching.loop import latest

DAYS = 7


@require_http_methods(["GET", "HEAD", "POST"])
@staff_only
def clients(request: HttpRequest, name: str) -> HttpResponseBase:
    """Show what clients now get for each name, how to try it, and the form that changes it."""
    page = clients_page(name, latest())
    if request.method == "POST":
        return _save(request, page)
    return _show(
        request, page, ClientsForm(page.gateway_policy, page.names, profiles.profile_names())
    )


@require_POST
@admins_only
def publish(request: HttpRequest, name: str) -> HttpResponseBase:
    """Publish the active model under a name on the host itself."""
    page = clients_page(name, latest())
    wanted = request.POST.get("published_name", "")[:200]
    try:
        later = published_name.publish(page.id, wanted, actor_of(request))
    except BadRequest as exc:
        form = ClientsForm(page.gateway_policy, page.names, profiles.profile_names())
        return _show(request, page, form, status=422, publish_error=exc.text, wanted=wanted)
    if later:
        messages.warning(request, f"Saved; it will be carried out as soon as possible. {later}")
    else:
        messages.success(request, "Saved and carried out on the host.")
    return redirect("host-clients", page.name)


@admins_only
def _save(request: HttpRequest, page: ClientsPage) -> HttpResponseBase:
    form = ClientsForm.sent(request.POST, profiles.profile_names())
    try:
        policy, names = form.values()
        set_clients(page.id, actor_of(request), policy=policy, names=names)
    except BadRequest as exc:
        form.add_error(exc)
        return _show(request, page, form, status=422)
    except SwitcherError as exc:
        messages.error(request, f"Nothing was saved. {exc.text}")
    else:
        messages.success(request, f"Saved. From now on clients of {page.name} get this.")
    return redirect("host-clients", page.name)


def _show(
    request: HttpRequest, page: ClientsPage, form: ClientsForm, status: int = 200, **more: Any
) -> HttpResponse:
    usage = keys.usage(DAYS, host=page.name)
    context: dict[str, Any] = {
        "page": page,
        "form": form,
        "usage": usage,
        "cut": keys.cut_prompts(usage),
        "days": DAYS,
        "now": system.now(),
        **more,
    }
    return render_page(request, "clients.html", context, section="hosts", status=status)
