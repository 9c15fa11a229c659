"""Profiles: list, add, edit, delete when unused."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from switcher.domain import specs
from switcher.domain.errors import BadRequest, SwitcherError
from switcher.panel.forms import ProfileForm, Warmups
from switcher.panel.page import actor_of, operators, show, staff
from switcher.queries import profiles
from switcher.queries.profiles import ProfileRow
from switcher.records import config


@require_safe
@staff
def profile_list(request: HttpRequest) -> HttpResponse:
    """All profiles and where they are used."""
    rows = profiles.profile_list()
    return show(request, "profiles.html", {"profiles": rows}, here="profiles")


@require_http_methods(["GET", "HEAD", "POST"])
@operators
def add(request: HttpRequest) -> HttpResponseBase:
    """A new profile; `?model=` suggests one."""
    if request.method == "POST":
        return _save(request, None)
    model = request.GET.get("model", "")[:200]
    form = ProfileForm(initial={"tag": model, "name": _slug_of(model)[:60]} if model else None)
    return _form(request, form, Warmups.of(specs.DEFAULT_WARMUPS), None)


@require_http_methods(["GET", "HEAD", "POST"])
@operators
def edit(request: HttpRequest, name: str) -> HttpResponseBase:
    """Change a profile. What is loaded stays as it is until the next switch."""
    row = profiles.profile(name)
    if request.method == "POST":
        return _save(request, row)
    return _form(
        request, ProfileForm(initial=ProfileForm.initial_of(row)), Warmups.of(row.warmups), row
    )


@require_POST
@operators
def delete(request: HttpRequest, name: str) -> HttpResponseBase:
    """Delete a profile that nothing uses."""
    row = profiles.profile(name)
    try:
        config.delete_profile(row.id, actor_of(request))
    except SwitcherError as exc:
        messages.error(request, f"Nothing was deleted. {exc.text}", extra_tags="failed")
        return redirect("profile-edit", name)
    messages.success(request, f"Profile {name} is deleted.", extra_tags="ok")
    return redirect("profiles")


def _slug_of(model: str) -> str:
    """Return the profile name that a model suggests: `qwen2.5:14b` gives `qwen2-5-14b`."""
    return "".join(c if c.isalnum() else "-" for c in model.lower()).strip("-")


def _save(request: HttpRequest, row: ProfileRow | None) -> HttpResponseBase:
    form, warmups = ProfileForm(request.POST), Warmups.sent(request.POST)
    if "add_warmup" in request.POST:
        warmups.add()
        return _form(request, ProfileForm(initial=request.POST.dict()), warmups, row, added=True)
    rows = warmups.values()
    if form.is_valid() and rows is not None:
        values: dict[str, Any] = form.cleaned_data | {"warmups": rows}
        try:
            name = config.put_profile(values, actor_of(request), row.id if row else None)
        except BadRequest as exc:
            form.add_error(exc.field or None, exc.text)
        except SwitcherError as exc:
            form.add_error(None, exc.text)
        else:
            messages.success(request, f"Profile {name} is saved.", extra_tags="ok")
            return redirect("profiles")
    return _form(request, form, warmups, row, status=422)


def _form(
    request: HttpRequest,
    form: ProfileForm,
    warmups: Warmups,
    row: ProfileRow | None,
    *,
    added: bool = False,
    status: int = 200,
) -> HttpResponse:
    context = {"form": form, "warmups": warmups, "profile": row, "added": added}
    return show(request, "profile_form.html", context, here="profiles", status=status)
