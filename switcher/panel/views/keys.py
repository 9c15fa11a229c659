"""Keys to the gateway: list with what was counted, make, turn off. A new key is shown once."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from switcher.domain.clock import system
from switcher.domain.errors import BadRequest, SwitcherError
from switcher.panel.keyform import KeyForm
from switcher.panel.page import actor_of, admins, show, staff
from switcher.presentation.wording import LIMIT_WORDS
from switcher.queries import keys as queries
from switcher.queries.hosts import hosts
from switcher.queries.profiles import profile_names
from switcher.records import keys

DAYS = 7


@require_safe
@staff
def key_list(request: HttpRequest) -> HttpResponse:
    """Who may use the gateway, and who did."""
    now = system.now()
    rows = queries.all_keys()
    context = {
        "now": now,
        "keys": [(key, key.is_valid_at(now)) for key in rows],
        "usage": queries.usage(DAYS),
        "days": DAYS,
        "limit_words": LIMIT_WORDS if any(key.is_limited for key in rows) else "",
    }
    return show(request, "keys.html", context, here="keys")


@require_http_methods(["GET", "HEAD", "POST"])
@admins
@never_cache
def add(request: HttpRequest) -> HttpResponseBase:
    """Make a key. The answer to the form is the only page that ever shows it."""
    form = KeyForm(
        request.POST or None,
        hosts=[host.name for host in hosts()],
        profiles=list(profile_names()),
    )
    if request.method != "POST":
        return show(request, "key_form.html", {"form": form}, here="keys")
    if form.is_valid():
        try:
            _, token = keys.make_key(form.to_new_key(), actor_of(request))
        except BadRequest as exc:
            form.add_error(exc.field if exc.field in form.fields else None, exc.text)
        except SwitcherError as exc:
            form.add_error(None, exc.text)
        else:
            context = {"token": token, "name": form.cleaned_data["name"]}
            return show(request, "key_made.html", context, here="keys", status=201)
    return show(request, "key_form.html", {"form": form}, here="keys", status=422)


@require_POST
@admins
def turn_off(request: HttpRequest, key_id: int) -> HttpResponseBase:
    """Let nobody in with it any more."""
    try:
        keys.turn_off(key_id, actor_of(request))
    except SwitcherError as exc:
        messages.error(request, exc.text, extra_tags="failed")
    else:
        text = "The key is off. Every gateway process refuses it from now on."
        messages.success(request, text, extra_tags="ok")
    return redirect("keys")
