"""The Django admin: hosts and profiles, saved through `records`; switches and entries to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect

from switcher import access
from switcher.domain import specs
from switcher.domain.errors import BadRequest, SwitcherError
from switcher.models import AuditEntry, Host, ModelProfile, SwitchEvent
from switcher.records import Actor, config


def actor_of(request: HttpRequest) -> Actor:
    """Who acts in the admin."""
    user = request.user
    return Actor(user.get_username(), "admin", user.pk, *access.origin_of(request))


def checked(check: Callable[[Any], Any], value: Any) -> Any:
    """What `specs` refuses becomes the field's error."""
    try:
        return check(value)
    except BadRequest as exc:
        raise forms.ValidationError(exc.text) from exc


class ProfileForm(forms.ModelForm):  # type: ignore[type-arg]  # generic only for the checker
    class Meta:
        model = ModelProfile
        fields = config.PROFILE_FIELDS

    def clean_tag(self) -> Any:
        return checked(specs.check_tag, self.cleaned_data["tag"])

    def clean_keep_alive(self) -> Any:
        return checked(specs.check_keep_alive, self.cleaned_data["keep_alive"])

    def clean_options(self) -> Any:
        return checked(specs.check_options, self.cleaned_data["options"] or {})

    def clean_warmups(self) -> Any:
        rows = self.cleaned_data["warmups"] or []
        checked(specs.check_warmups, rows)
        return rows


class HostForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Host
        fields = config.HOST_FIELDS

    def clean_keep_alive(self) -> Any:
        return checked(specs.check_keep_alive, self.cleaned_data["keep_alive"])

    def clean_base_url(self) -> str:
        return str(checked(specs.check_address, self.cleaned_data["base_url"]))

    def clean_published_name(self) -> str:
        return str(checked(specs.check_published, self.cleaned_data["published_name"]))


class ThroughRecords(admin.ModelAdmin):  # type: ignore[type-arg]
    """Every change goes through `records`, so that none is without its audit entry. Who may is
    what `access` says: a permission of Django's makes nobody an admin, and no auditor one."""

    actions = None  # in bulk Django would delete rows by itself

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

    def has_module_permission(self, request: HttpRequest) -> bool:
        return access.can_administer(request.user)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return access.can_administer(request.user)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return access.can_administer(request.user)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return access.can_administer(request.user)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return access.can_administer(request.user)


@admin.register(ModelProfile)
class ModelProfileAdmin(ThroughRecords):
    form = ProfileForm
    list_display = ("name", "tag", "keep_alive", "changed_at")
    search_fields = ("name", "tag")

    def save_model(self, request: HttpRequest, obj: ModelProfile, form: Any, change: bool) -> None:
        config.save_profile(obj, actor_of(request))

    def delete_model(self, request: HttpRequest, obj: ModelProfile) -> None:
        config.delete_profile(obj.pk, actor_of(request))


@admin.register(Host)
class HostAdmin(ThroughRecords):
    form = HostForm
    list_display = ("name", "base_url", "is_default", "simulated", "active_tag")
    search_fields = ("name", "base_url")

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).filter(removed_at=None)

    def save_model(self, request: HttpRequest, obj: Host, form: Any, change: bool) -> None:
        config.save_host(obj, actor_of(request))

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[str], dict[str, int], set[str], list[str]]:
        # Nothing is deleted with it: it leaves the board and keeps its history.
        return [str(o) for o in objs], {"hosts": len(objs)}, set(), []

    def delete_model(self, request: HttpRequest, obj: Host) -> None:
        config.remove_host(obj.pk, actor_of(request))


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    """A sealed record: to be read, by who may open the admin."""

    actions = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return access.can_view(request.user)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return access.can_view(request.user)


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
