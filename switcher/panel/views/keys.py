"""API keys of the gateway: list them with their usage, make them, turn them off. A new key is shown
once."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from switcher.domain.clock import system
from switcher.domain.errors import SwitcherError
from switcher.panel.forms import add_error
from switcher.panel.forms.gateway import KeyForm
from switcher.panel.page import actor_of, admins_only, render_page, staff_only
from switcher.presentation.clients import LIMIT_WORDS
from switcher.queries import keys as queries
from switcher.queries.hosts import hosts
from switcher.queries.profiles import profile_names
from switcher.records import keys

DAYS = 7


@require_safe
@staff_only
def key_list(request: HttpRequest) -> HttpResponse:
    """List the keys and how much they were used."""
    now = system.now()
    rows = queries.all_keys()
    context = {
        "now": now,
        "keys": [(key, key.is_valid_at(now)) for key in rows],
        "usage": queries.usage(DAYS),
        "days": DAYS,
        "limit_words": LIMIT_WORDS if any(key.is_limited for key in rows) else "",
    }
    return render_page(request, "keys.html", context, section="keys")


@require_http_methods(["GET", "HEAD", "POST"])
@admins_only
@never_cache
def add(request: HttpRequest) -> HttpResponseBase:
    """Make a key. It is shown only in the response to this form."""
    form = KeyForm(
        request.POST or None,
        hosts=[host.name for host in hosts()],
        profiles=list(profile_names()),
    )
    if request.method != "POST":
        return render_page(request, "key_form.html", {"form": form}, section="keys")
    if form.is_valid():
        try:
            _, token = keys.make_key(form.to_new_key(), actor_of(request))
        except SwitcherError as exc:
            add_error(form, exc)
        else:
            context = {"token": token, "name": form.cleaned_data["name"]}
            return render_page(request, "key_made.html", context, section="keys", status=201)
    return render_page(request, "key_form.html", {"form": form}, section="keys", status=422)


@require_POST
@admins_only
def turn_off(request: HttpRequest, key_id: int) -> HttpResponseBase:
    """Turn a key off for good."""
    try:
        keys.turn_off(key_id, actor_of(request))
    except SwitcherError as exc:
        messages.error(request, exc.text)
    else:
        text = "The key is off. Every gateway process refuses it from now on."
        messages.success(request, text)
    return redirect("keys")
