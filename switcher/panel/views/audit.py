"""Pages of the audit trail: find entries, read one, review them, erase personal data."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from switcher.audit import entries, reviews
from switcher.audit.archive_files import archive_file_at, archive_file_of, newest_archive_file
from switcher.audit.erasure import WAITS, held_of
from switcher.audit.erasure import erase as erase_personal
from switcher.audit.filters import GROUPS, Filters, group_of, read_time, read_valid_filters
from switcher.audit.point_in_time import hosts_at
from switcher.audit.search import distinct_values
from switcher.domain.clock import system
from switcher.domain.errors import BadRequest, SwitcherError
from switcher.panel.page import (
    actor_of,
    admins_only,
    auditors_only,
    is_whole_number,
    message_page,
    not_found_page,
    render_page,
    safe_next,
    staff_only,
    whole_number,
)

LIST = "audit-list"


@require_safe
@staff_only
def entry_list(request: HttpRequest) -> HttpResponse:
    """Show all entries that match the filters in the address, newest first."""
    return _list(request, {}, {"title": "Audit"})


@require_safe
@staff_only
def person(request: HttpRequest, name: str) -> HttpResponseBase:
    """Show what one person did."""
    history = entries.history(Filters(actor=name))
    if history is None:
        return not_found_page(request, f"There is no entry of {name}")
    return _list(request, {"actor": name}, {"title": name, "history": history, "person": name})


@require_safe
@staff_only
def host(request: HttpRequest, name: str) -> HttpResponseBase:
    """Show what was done to one host, even if it was removed since."""
    history = entries.history(Filters(host=name))
    if history is None:
        return not_found_page(request, f"There is no entry about {name}")
    return _list(request, {"host": name}, {"title": name, "history": history, "host": name})


def _list(request: HttpRequest, fixed: dict[str, str], context: dict[str, Any]) -> HttpResponse:
    filters, errors = read_valid_filters(request.GET.dict() | fixed)
    values = filters.to_dict()
    context |= {
        "page": entries.page(
            filters, whole_number(request, "before"), whole_number(request, "after")
        ),
        "filters": filters,
        "filter_values": values,
        "errors": errors,
        "fixed": fixed,
        "query": urlencode({k: v for k, v in values.items() if k not in fixed}),
        "now": system.now(),
        "archived": newest_archive_file(),
    }
    if request.headers.get("HX-Target") == LIST:
        return render_page(request, "audit/list.html#list", context, section="audit")
    context |= {
        "hosts": distinct_values("host"),
        "models": distinct_values("model"),
        "people": distinct_values("actor"),
        "groups": _groups(),
        "outcomes": entries.OUTCOMES,
        "last_review": entries.last_review(),
    }
    return render_page(request, "audit/list.html", context, section="audit")


def _groups() -> list[tuple[str, list[str]]]:
    """Return the trail's groups and kinds; kinds without a group come last."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for kind in distinct_values("kind"):
        found.setdefault(group_of(kind), []).append(kind)
    return [(group, kinds) for group, kinds in found.items() if kinds]


@require_safe
@staff_only
def entry(request: HttpRequest, seq: int) -> HttpResponse:
    """Show one entry: what happened, from where, its exact text and its proof."""
    found = entries.detail(seq)
    if found is None:
        return _archived(request, seq)
    context = {"detail": found, "entry": found.entry, "now": system.now()}
    return render_page(request, "audit/entry.html", context, section="audit")


def _archived(request: HttpRequest, seq: int) -> HttpResponse:
    found = archive_file_of(seq)
    if found is None:
        return not_found_page(request, f"There is no entry {seq}")
    text = (
        f"It is in the archive file {found.file_name}, with entries {found.first:,} to "
        f"{found.last:,}. "
        "That file is listed under Audit, Verify, and can be verified on its own."
    )
    return message_page(request, f"Entry {seq:,} was moved", text, 404)


@require_safe
@staff_only
def proof(request: HttpRequest, seq: int) -> HttpResponseBase:
    """Download the proof as JSON, to check it elsewhere."""
    found = entries.detail(seq)
    if found is None or found.proof is None:
        return not_found_page(request, f"There is no proof of entry {seq}")
    response = JsonResponse(found.proof.to_json(), json_dumps_params={"indent": 2})
    response["Content-Disposition"] = f'attachment; filename="audit-entry-{seq}.json"'
    return response


@require_safe
@staff_only
def when(request: HttpRequest) -> HttpResponse:
    """Show which model was active on each host at a moment."""
    given, now = request.GET.get("at", "").strip(), system.now()
    error, at = "", now
    if given:
        try:
            at = read_time(given)
        except BadRequest as exc:
            error = exc.text
    archived = None if error else archive_file_at(at)
    hosts = () if error or archived else hosts_at(at)
    context = {"at": at, "given": given, "error": error, "now": now}
    context |= {"archived": archived, "hosts": hosts}
    return render_page(
        request, "audit/when.html", context, section="audit", status=422 if error else 200
    )


@require_POST
@auditors_only
def review(request: HttpRequest) -> HttpResponseBase:
    """Mark the selected entries, or all entries of the page, as reviewed."""
    which = "shown" if request.POST.get("which") == "shown" else "seq"
    seqs = [int(text) for text in request.POST.getlist(which) if is_whole_number(text)]
    try:
        count = reviews.review(seqs, actor_of(request), request.POST.get("note", "").strip())
    except SwitcherError as exc:
        messages.warning(request, f"Nothing was marked. {exc.text}")
    else:
        entries = "entry" if count == 1 else "entries"
        messages.success(request, f"{count} {entries} marked as reviewed.", extra_tags="ok")
    return redirect(safe_next(request, request.POST.get("next", "")) or reverse("audit"))


@require_http_methods(["GET", "HEAD", "POST"])
@admins_only
def erase(request: HttpRequest, name: str) -> HttpResponseBase:
    """Show what is stored about an account, and erase its personal data."""
    held = held_of(name)
    if not held.known:
        return not_found_page(request, f"There is no entry of {name}")
    if request.method != "POST":
        return render_page(
            request, "audit/erase.html", {"person": name, "held": held}, section="audit"
        )
    try:
        erased = erase_personal(name, actor_of(request), request.POST.get("reason", "")[:500])
    except SwitcherError as exc:
        messages.error(request, f"Nothing was erased. {exc.text}")
    else:
        many = "address and browser" if erased.origins == 1 else "addresses and browsers"
        messages.success(request, f"{erased.origins} {many} of {name} erased.")
        if not erased.gone:
            messages.warning(request, WAITS)
    return redirect("audit-person", name)
