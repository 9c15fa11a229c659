"""The Django admin: hosts and profiles are saved through `records`; the rest is read-only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect

from switcher import access
from switcher.domain import specs
from switcher.domain.addresses import check_address
from switcher.domain.errors import BadRequest, SwitcherError
from switcher.models import AuditEntry, Host, ModelProfile, SwitchEvent
from switcher.records import Actor, config
from switcher.watching.new_address import check_new_server


def actor_of(request: HttpRequest) -> Actor:
    """Return who acts in the admin."""
    user = request.user
    return Actor(user.get_username(), "admin", user.pk, *access.origin_of(request))


def _is_administrator(self: Any, request: HttpRequest, obj: Any = None) -> bool:
    return access.can_administer(request.user)


def _is_staff(self: Any, request: HttpRequest, obj: Any = None) -> bool:
    return access.can_view(request.user)


def _is_nobody(self: Any, request: HttpRequest, obj: Any = None) -> bool:
    return False


def _check_warmups(rows: Any) -> Any:
    specs.check_warmups(rows or [])
    return rows or []


# What `specs` checks, whichever way it is entered.
CHECKS: dict[str, Callable[[Any], Any]] = {
    "tag": specs.check_tag,
    "keep_alive": specs.check_keep_alive,
    "options": lambda options: specs.check_options(options or {}),
    "warmups": _check_warmups,
    "base_url": check_address,
    "published_name": specs.check_published,
}


class CheckedForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only for the checker
    """A form whose fields are checked by `specs`, as on the pages and in the API."""

    def clean(self) -> dict[str, Any]:
        values: dict[str, Any] = super().clean() or self.cleaned_data
        for name in values.keys() & CHECKS.keys():
            try:
                values[name] = CHECKS[name](values[name])
            except BadRequest as exc:
                self.add_error(name, exc.text)
        return values


class ThroughRecords(admin.ModelAdmin):  # type: ignore[type-arg]
    """Saves through `records`, so that every change leaves an audit entry.

    `access` decides who may change rows. Django's own permissions do not make anybody an admin.
    """

    actions = None  # bulk actions would delete rows without `records`

    def delete_view(  # type: ignore[override]  # a redirect where it is refused
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        try:
            return super().delete_view(request, object_id, extra_context)
        except SwitcherError as exc:
            messages.error(request, f"Nothing was deleted. {exc.text}")
            return redirect(request.path.replace("/delete/", "/change/"))

    def changeform_view(  # type: ignore[override]  # a redirect where it is refused
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except SwitcherError as exc:
            messages.error(request, f"Nothing was saved. {exc.text}")
            return redirect(request.path)

    has_module_permission = has_view_permission = _is_administrator
    has_add_permission = has_change_permission = has_delete_permission = _is_administrator


@admin.register(ModelProfile)
class ModelProfileAdmin(ThroughRecords):
    form = CheckedForm
    fields = config.PROFILE_FIELDS
    list_display = ("name", "tag", "keep_alive", "changed_at")
    search_fields = ("name", "tag")

    def save_model(self, request: HttpRequest, obj: ModelProfile, form: Any, change: bool) -> None:
        config.save_profile(obj, actor_of(request))

    def delete_model(self, request: HttpRequest, obj: ModelProfile) -> None:
        config.delete_profile(obj.pk, actor_of(request))


@admin.register(Host)
class HostAdmin(ThroughRecords):
    form = CheckedForm
    fields = config.HOST_FIELDS
    list_display = ("name", "base_url", "is_default", "simulated", "active_tag")
    search_fields = ("name", "base_url")

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).filter(removed_at=None)

    def save_model(self, request: HttpRequest, obj: Host, form: Any, change: bool) -> None:
        if "base_url" in form.changed_data:
            check_new_server(obj.base_url, obj.pk)
        config.save_host(obj, actor_of(request))

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        # Nothing else is deleted: a removed host leaves the board and keeps its history.
        return [str(o) for o in objs], {"hosts": len(objs)}, set(), []

    def delete_model(self, request: HttpRequest, obj: Host) -> None:
        config.remove_host(obj.pk, actor_of(request))


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    """A sealed record, for everyone who may open the admin."""

    actions = None

    has_module_permission = has_view_permission = _is_staff
    has_add_permission = has_change_permission = has_delete_permission = _is_nobody


@admin.register(SwitchEvent)
class SwitchEventAdmin(ReadOnly):
    exclude = ("from_spec", "to_spec")  # they hold a profile's prompts
    list_display = ("id", "host", "from_tag", "to_tag", "state", "actor", "created_at")
    list_filter = ("state",)
    list_select_related = ("host",)
    search_fields = ("to_tag", "actor", "reason")


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly):
    list_display = ("seq", "at", "kind", "actor", "host")
    search_fields = ("kind", "actor", "host")
