"""Hosts: list, one of them, add, edit, check, remove."""

from __future__ import annotations

from dataclasses import replace

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django_htmx.http import trigger_client_event

from switcher.domain.clock import system
from switcher.domain.errors import BadRequest, SwitcherError
from switcher.domain.model_copies import without_copies
from switcher.domain.observed import Observation
from switcher.domain.specs import check_address
from switcher.ollama.client import Client
from switcher.panel.forms import HostForm
from switcher.panel.page import (
    actor_of,
    admins,
    is_htmx,
    operators,
    show,
    staff,
)
from switcher.panel.planning import Notice
from switcher.presentation.hosts import host_list as present_hosts
from switcher.presentation.hosts import host_page
from switcher.queries import hosts, keys, profiles
from switcher.queries.hosts import HostSettings
from switcher.records import config
from switcher.switching import service
from switcher.watching.loop import check_now, latest

USAGE_DAYS = 7


@require_safe
@staff
def host_list(request: HttpRequest) -> HttpResponse:
    """All hosts, with what they hold."""
    now = system.now()
    context = {"hosts": present_hosts(now, latest()), "now": now}
    return show(request, "hosts.html", context, here="hosts")


@require_safe
@staff
def host(request: HttpRequest, name: str) -> HttpResponse:
    """One host: what is resident, its profiles, its switches."""
    now = system.now()
    page = host_page(name, now, latest())
    used = {"usage": keys.usage(USAGE_DAYS, host=name), "days": USAGE_DAYS}
    context = {"page": page, "host": page, "now": now, **used}
    return show(request, "host.html", context, here="hosts")


@require_http_methods(["GET", "HEAD", "POST"])
@admins
def add(request: HttpRequest) -> HttpResponseBase:
    """A new host. Adding one loads and unloads nothing."""
    if request.method == "POST":
        return _save(request, None)
    initial = {"base_url": request.GET.get("base_url", "")[:300]}
    form = HostForm(initial=initial, profiles=profiles.profile_names())
    return _form(request, form, None)


@require_http_methods(["GET", "HEAD", "POST"])
@admins
def edit(request: HttpRequest, name: str) -> HttpResponseBase:
    """Change what is set for a host."""
    values = hosts.host(name)
    if request.method == "POST":
        return _save(request, values)
    form = HostForm(initial=HostForm.initial_of(values), profiles=profiles.profile_names())
    return _form(request, form, values)


@require_POST
@admins
def remove(request: HttpRequest, name: str) -> HttpResponseBase:
    """Take a host off the board; nothing on it is touched, its history stays."""
    values = hosts.host(name)
    try:
        config.remove_host(values.id, actor_of(request))
    except SwitcherError as exc:
        messages.error(request, f"Nothing was removed. {exc.text}", extra_tags="failed")
        return redirect("host-edit", name)
    text = f"Host {name} is removed. Its switches stay on record."
    messages.success(request, text, extra_tags="ok")
    return redirect("hosts")


@require_POST
@operators
def check(request: HttpRequest, name: str) -> HttpResponseBase:
    """Read a host at once instead of waiting for its turn."""
    values = hosts.host(name)
    seen = check_now(values.id, values.base_url)
    if seen.answered:
        text = f"{name} answered in {seen.latency_ms} ms: {len(seen.resident)} loaded."
        messages.success(request, text, extra_tags="ok")
    else:
        messages.error(request, f"{name} did not answer. {seen.error}", extra_tags="failed")
    return redirect("host", name)


@require_safe
@staff
def ghosts(request: HttpRequest, name: str) -> HttpResponseBase:
    """The ghosts of a host, with the buttons of who looks."""
    return _ghosts(request, name) if is_htmx(request) else redirect("host", name)


@require_POST
@operators
def free(request: HttpRequest, name: str) -> HttpResponseBase:
    """Unload a ghost through a copy of it; the answer comes when it is gone."""
    values = hosts.host(name)
    try:
        freed = service.free_ghost(name, request.POST.get("digest", ""), actor_of(request))
        said = Notice("ok", "", freed.text)
    except SwitcherError as exc:
        said = Notice("failed", "", exc.text)
    check_now(values.id, values.base_url)
    if is_htmx(request):
        response = _ghosts(request, name, said)
        return trigger_client_event(
            response, "focus-on", {"id": f"host-{name}-freed"}, after="swap"
        )
    level = messages.SUCCESS if said.state == "ok" else messages.ERROR
    messages.add_message(request, level, said.text, extra_tags=said.state)
    return redirect("host", name)


def _ghosts(request: HttpRequest, name: str, freed: Notice | None = None) -> HttpResponse:
    now = system.now()
    page = host_page(name, now, latest())
    return show(request, "ghosts.html", {"host": page, "freed": freed, "now": now})


@require_POST
@admins
def probe(request: HttpRequest) -> HttpResponseBase:
    """Read an address before it is saved: version, models, what is loaded."""
    if not is_htmx(request):
        return _save(request, None)
    try:
        seen = read_address(request.POST.get("base_url", ""))
    except BadRequest as exc:
        seen = Observation(system.now(), error=exc.text)
    response = show(request, "host_form.html#probe", {"probe": seen})
    return trigger_client_event(response, "focus-on", {"id": "pb-h"}, after="swap")


def read_address(text: str) -> Observation:
    """What answers there now. BadRequest where it is no address."""
    client = Client(check_address(text))
    try:
        seen = client.observe(system.now())
        return replace(seen, installed=without_copies(seen.installed))
    finally:
        client.close()


def _save(request: HttpRequest, row: HostSettings | None) -> HttpResponseBase:
    names = profiles.profile_names()
    form = HostForm(request.POST, profiles=names)
    if "probe" in request.POST:
        probed = read_address(form.cleaned_data["base_url"]) if _address_is_good(form) else None
        return _form(request, form, row, probed=probed)
    if form.is_valid():
        try:
            config.put_host(
                form.values(),
                actor_of(request),
                row.id if row else None,
                pinned=form.cleaned_data["pinned"] if "pins" in request.POST else None,
                default=form.cleaned_data["default"],
            )
        except BadRequest as exc:
            form.add_error(exc.field or None, exc.text)
        except SwitcherError as exc:
            form.add_error(None, exc.text)
        else:
            name = form.cleaned_data["name"]
            messages.success(request, f"Host {name} is saved.", extra_tags="ok")
            return redirect("host", name)
    return _form(request, form, row, status=422)


def _address_is_good(form: HostForm) -> bool:
    form.is_valid()
    return "base_url" in form.cleaned_data


def _form(
    request: HttpRequest,
    form: HostForm,
    row: HostSettings | None,
    *,
    probed: Observation | None = None,
    status: int = 200,
) -> HttpResponse:
    context = {"form": form, "values": row, "probe": probed}
    return show(request, "host_form.html", context, here="hosts", status=status)
