"""Profiles: list, add, change, delete."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from switcher.domain import specs
from switcher.domain.errors import SwitcherError
from switcher.panel.forms import add_error
from switcher.panel.forms.config import ProfileForm, WarmupFormSet, sent_warmups, warmups_of
from switcher.panel.page import actor_of, operators_only, render_page, staff_only
from switcher.queries import profiles
from switcher.queries.profiles import ProfileRow
from switcher.records import config


@require_safe
@staff_only
def profile_list(request: HttpRequest) -> HttpResponse:
    """List all profiles and where they are used."""
    context = {"profiles": profiles.profile_list()}
    return render_page(request, "profiles.html", context, section="profiles")


@require_http_methods(["GET", "HEAD", "POST"])
@operators_only
def add(request: HttpRequest) -> HttpResponseBase:
    """Add a profile; `?model=` fills in the model."""
    if request.method == "POST":
        return _save(request, None)
    model = request.GET.get("model", "")[:200]
    form = ProfileForm(initial={"tag": model, "name": _slug_of(model)[:60]} if model else None)
    return _show_form(request, form, warmups_of(specs.DEFAULT_WARMUPS), None)


@require_http_methods(["GET", "HEAD", "POST"])
@operators_only
def edit(request: HttpRequest, name: str) -> HttpResponseBase:
    """Change a profile. A loaded model keeps its settings until the next switch."""
    profile = profiles.profile(name)
    if request.method == "POST":
        return _save(request, profile)
    form = ProfileForm(initial=ProfileForm.initial_of(profile))
    return _show_form(request, form, warmups_of(profile.warmups), profile)


@require_POST
@operators_only
def delete(request: HttpRequest, name: str) -> HttpResponseBase:
    """Delete a profile that nothing uses."""
    profile = profiles.profile(name)
    try:
        config.delete_profile(profile.id, actor_of(request))
    except SwitcherError as exc:
        messages.error(request, f"Nothing was deleted. {exc.text}")
        return redirect("profile-edit", name)
    messages.success(request, f"Profile {name} is deleted.")
    return redirect("profiles")


def _slug_of(model: str) -> str:
    """Return the profile name that a model suggests: `qwen2.5:14b` gives `qwen2-5-14b`."""
    return "".join(c if c.isalnum() else "-" for c in model.lower()).strip("-")


def _save(request: HttpRequest, profile: ProfileRow | None) -> HttpResponseBase:
    form, warmups = ProfileForm(request.POST), sent_warmups(request.POST)
    if "add_warmup" in request.POST:
        form = ProfileForm(initial=request.POST.dict())
        return _show_form(request, form, warmups.with_another(), profile)
    if form.is_valid() and warmups.is_valid():
        values: dict[str, Any] = form.cleaned_data | {"warmups": warmups.rows()}
        try:
            name = config.put_profile(values, actor_of(request), profile.id if profile else None)
        except SwitcherError as exc:
            add_error(form, exc)
        else:
            messages.success(request, f"Profile {name} is saved.")
            return redirect("profiles")
    return _show_form(request, form, warmups, profile, status=422)


def _show_form(
    request: HttpRequest,
    form: ProfileForm,
    warmups: WarmupFormSet,
    profile: ProfileRow | None,
    *,
    status: int = 200,
) -> HttpResponse:
    context = {"form": form, "warmups": warmups, "profile": profile}
    return render_page(request, "profile_form.html", context, section="profiles", status=status)
