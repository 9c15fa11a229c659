"""The credentials and certificates of a host."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods

from switcher.domain.errors import SwitcherError
from switcher.panel.forms import add_error
from switcher.panel.forms.access import HostAccessForm
from switcher.panel.page import actor_of, admins_only, render_page
from switcher.queries import hosts
from switcher.queries.host_access import host_access
from switcher.queries.hosts import HostSettings
from switcher.records.host_access import set_access


@sensitive_post_parameters()
@require_http_methods(["GET", "HEAD", "POST"])
@admins_only
def access(request: HttpRequest, name: str) -> HttpResponseBase:
    """Show which credentials a host has, and change them."""
    host = hosts.host(name)
    known = host_access(host)
    initial = {
        "ca_certificate": known.ca_certificate,
        "skip_verification": not known.verify_tls,
    }
    form = HostAccessForm(request.POST if request.method == "POST" else None, initial=initial)
    if request.method == "POST" and form.is_valid() and _save(request, form, host):
        messages.success(request, f"Saved how {name} is reached.")
        return redirect("host", name)
    context = {"form": form, "host": host, "access": known}
    status = 422 if request.method == "POST" else 200
    return render_page(request, "host_access.html", context, section="hosts", status=status)


def _save(request: HttpRequest, form: HostAccessForm, host: HostSettings) -> bool:
    try:
        set_access(
            host.id,
            actor_of(request),
            add=form.credentials(),
            forget=form.cleaned_data["forget"],
            ca_certificate=form.cleaned_data["ca_certificate"],
            verify_tls=not form.cleaned_data["skip_verification"],
        )
    except SwitcherError as exc:
        add_error(form, exc)
        return False
    return True
