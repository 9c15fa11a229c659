"""Hosts: list, add, change, check, remove, and free their ghosts."""

from __future__ import annotations

from dataclasses import replace

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django_htmx.http import trigger_client_event

from switcher.domain.addresses import check_address
from switcher.domain.clock import system
from switcher.domain.errors import BadRequest, SwitcherError
from switcher.domain.model_copies import without_copies
from switcher.domain.observed import Observation
from switcher.ollama.client import Client
from switcher.panel.forms import add_error
from switcher.panel.forms.config import HostForm
from switcher.panel.page import (
    actor_of,
    admins_only,
    is_htmx,
    operators_only,
    render_page,
    staff_only,
)
from switcher.presentation.hosts import Note, host_page
from switcher.presentation.hosts import host_list as present_hosts
from switcher.queries import hosts, keys, profiles
from switcher.queries.hosts import HostSettings
from switcher.queries.readings import left_over_copies
from switcher.records import config
from switcher.switching import service
from switcher.watching.loop import check_now, latest
from switcher.watching.new_address import check_new_server

USAGE_DAYS = 7


@require_safe
@staff_only
def host_list(request: HttpRequest) -> HttpResponse:
    """List all hosts and what is resident on them."""
    now = system.now()
    context = {"hosts": present_hosts(now, latest()), "now": now}
    return render_page(request, "hosts.html", context, section="hosts")


@require_safe
@staff_only
def host(request: HttpRequest, name: str) -> HttpResponse:
    """Show one host: resident models, profiles, drift, settings, switches and use."""
    now = system.now()
    page = host_page(name, now, latest())
    usage = keys.usage(USAGE_DAYS, host=name)
    context = {"host": page, "now": now, "usage": usage, "days": USAGE_DAYS}
    context["left_over_copies"] = left_over_copies(page.id)
    return render_page(request, "host.html", context, section="hosts")


@require_http_methods(["GET", "HEAD", "POST"])
@admins_only
def add(request: HttpRequest) -> HttpResponseBase:
    """Add a host. This loads and unloads nothing."""
    if request.method == "POST":
        return _save(request, None)
    initial = {"base_url": request.GET.get("base_url", "")[:300]}
    form = HostForm(initial=initial, profiles=profiles.profile_names())
    return _show_form(request, form, None)


@require_http_methods(["GET", "HEAD", "POST"])
@admins_only
def edit(request: HttpRequest, name: str) -> HttpResponseBase:
    """Change the settings of a host."""
    values = hosts.host(name)
    if request.method == "POST":
        return _save(request, values)
    form = HostForm(initial=HostForm.initial_of(values), profiles=profiles.profile_names())
    return _show_form(request, form, values)


@require_POST
@admins_only
def remove(request: HttpRequest, name: str) -> HttpResponseBase:
    """Take a host off the board. Nothing on it is touched, and its history stays."""
    values = hosts.host(name)
    try:
        config.remove_host(values.id, actor_of(request))
    except SwitcherError as exc:
        messages.error(request, f"Nothing was removed. {exc.text}")
        return redirect("host-edit", name)
    messages.success(request, f"Host {name} is removed. Its switches stay on record.")
    return redirect("hosts")


@require_POST
@operators_only
def check(request: HttpRequest, name: str) -> HttpResponseBase:
    """Read a host now instead of waiting for the watcher."""
    values = hosts.host(name)
    reading = check_now(values.id, values.server)
    if reading.answered:
        text = f"{name} answered in {reading.latency_ms} ms: {len(reading.resident)} loaded."
        messages.success(request, text)
    else:
        messages.error(request, f"{name} did not answer. {reading.error}")
    return redirect("host", name)


@require_POST
@operators_only
def wake(request: HttpRequest, name: str) -> HttpResponseBase:
    """Send a sleeping host its Wake-on-LAN packet."""
    try:
        service.wake_host(name, actor_of(request))
    except SwitcherError as exc:
        messages.error(request, exc.text)
    else:
        messages.success(request, f"{name} was sent the packet. Nothing tells whether it arrived.")
    return redirect("host", name)


@require_safe
@staff_only
def ghosts(request: HttpRequest, name: str) -> HttpResponseBase:
    """Show the ghosts of a host, with the buttons that the current user may press."""
    return _ghosts(request, name) if is_htmx(request) else redirect("host", name)


@require_POST
@operators_only
def free(request: HttpRequest, name: str) -> HttpResponseBase:
    """Unload a ghost through a model copy, and respond when it is gone."""
    values = hosts.host(name)
    try:
        freed = service.free_ghost(name, request.POST.get("digest", ""), actor_of(request))
        result = Note("ok", freed.text)
    except SwitcherError as exc:
        result = Note("failed", exc.text)
    check_now(values.id, values.server)
    if is_htmx(request):
        response = _ghosts(request, name, result)
        return trigger_client_event(
            response, "focus-on", {"id": f"host-{name}-freed"}, after="swap"
        )
    level = messages.SUCCESS if result.state == "ok" else messages.ERROR
    messages.add_message(request, level, result.text)
    return redirect("host", name)


@require_POST
@operators_only
def remove_copies(request: HttpRequest, name: str) -> HttpResponseBase:
    """Remove the model copies that another tool or an earlier data directory left."""
    values = hosts.host(name)
    try:
        messages.success(request, service.remove_left_over_copies(name, actor_of(request)).text)
    except SwitcherError as exc:
        messages.error(request, f"Nothing was removed. {exc.text}")
    check_now(values.id, values.server)
    return redirect("host", name)


@operators_only
def unload(request: HttpRequest, name: str) -> HttpResponseBase:
    """Show what unloading the active model would do, and do it once that is confirmed."""
    values = hosts.host(name)
    context = {"host": values, "text": "", "error": "", "reason": request.POST.get("reason", "")}
    try:
        if request.method == "POST":
            done = service.unload_active(name, actor_of(request), request.POST.get("reason", ""))
            check_now(values.id, values.server)
            messages.success(request, done.text)
            return redirect("host", name)
        context["text"] = service.plan_unload(name).text
    except SwitcherError as exc:
        context["error"] = exc.text
    status = 409 if request.method == "POST" else 200
    return render_page(request, "unload.html", context, section="hosts", status=status)


def _ghosts(request: HttpRequest, name: str, freed: Note | None = None) -> HttpResponse:
    now = system.now()
    page = host_page(name, now, latest())
    return render_page(request, "ghosts.html", {"host": page, "freed": freed, "now": now})


@require_POST
@admins_only
def probe(request: HttpRequest) -> HttpResponseBase:
    """Read a server before it is saved: its version and its models."""
    if not is_htmx(request):
        return _save(request, None)
    try:
        reading = read_address(request.POST.get("base_url", ""))
    except BadRequest as exc:
        reading = Observation(system.now(), error=exc.text)
    response = render_page(request, "host_form.html#probe", {"probe": reading})
    return trigger_client_event(response, "focus-on", {"id": "pb-h"}, after="swap")


def read_address(text: str) -> Observation:
    """Return what the server at an address reports, asked with the credentials of the host that is
    there, if there is one. Raises BadRequest."""
    address = check_address(text)
    known = (host.server for host in hosts.hosts() if host.base_url == address)
    client = Client(next(known, address))
    try:
        reading = client.observe(system.now())
        return replace(reading, installed=without_copies(reading.installed))
    finally:
        client.close()


def _save(request: HttpRequest, host: HostSettings | None) -> HttpResponseBase:
    names = profiles.profile_names()
    form = HostForm(request.POST, profiles=names)
    if "probe" in request.POST:
        probed = read_address(form.cleaned_data["base_url"]) if _has_valid_address(form) else None
        return _show_form(request, form, host, probed=probed)
    if form.is_valid():
        base_url = form.cleaned_data["base_url"]
        try:
            if host is None or host.base_url != base_url:
                check_new_server(base_url, host.id if host else None)
            config.put_host(
                form.values(),
                actor_of(request),
                host.id if host else None,
                pinned=form.cleaned_data["pinned"] if "pins" in request.POST else None,
                default=form.cleaned_data["default"],
            )
        except SwitcherError as exc:
            add_error(form, exc)
        else:
            name = form.cleaned_data["name"]
            messages.success(request, f"Host {name} is saved.")
            return redirect("host", name)
    return _show_form(request, form, host, status=422)


def _has_valid_address(form: HostForm) -> bool:
    form.is_valid()
    return "base_url" in form.cleaned_data


def _show_form(
    request: HttpRequest,
    form: HostForm,
    host: HostSettings | None,
    *,
    probed: Observation | None = None,
    status: int = 200,
) -> HttpResponse:
    context = {"form": form, "host": host, "probe": probed}
    return render_page(request, "host_form.html", context, section="hosts", status=status)
