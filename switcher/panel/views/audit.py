"""The audit trail for people: find entries, read one, mark them as reviewed."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_POST, require_safe

from switcher.audit import entries, reviews
from switcher.audit.archive_files import archive_file_at, archive_file_of, newest_archive_file
from switcher.audit.filters import GROUPS, Filters, group_of, moment, read_what_can_be
from switcher.audit.point_in_time import then
from switcher.audit.search import distinct
from switcher.domain.clock import system
from switcher.domain.errors import BadRequest, SwitcherError
from switcher.panel.page import (
    actor_of,
    auditors_only,
    not_found_page,
    render_page,
    safe_next,
    staff_only,
)

LIST = "audit-list"


@require_safe
@staff_only
def entry_list(request: HttpRequest) -> HttpResponse:
    """All entries, newest first, narrowed by what the address says."""
    return _list(request, {}, {"title": "Audit"})


@require_safe
@staff_only
def person(request: HttpRequest, name: str) -> HttpResponseBase:
    """What one person did."""
    history = entries.history(Filters(actor=name))
    if history is None:
        return not_found_page(request, f"There is no entry of {name}")
    return _list(request, {"actor": name}, {"title": name, "history": history, "person": name})


@require_safe
@staff_only
def host(request: HttpRequest, name: str) -> HttpResponseBase:
    """What was done to one host; also to one that was removed."""
    history = entries.history(Filters(host=name))
    if history is None:
        return not_found_page(request, f"There is no entry about {name}")
    return _list(request, {"host": name}, {"title": name, "history": history, "host": name})


def _list(request: HttpRequest, fixed: dict[str, str], context: dict[str, Any]) -> HttpResponse:
    filters, errors = read_what_can_be(request.GET.dict() | fixed)
    page = entries.page(filters, _number(request, "before"), _number(request, "after"))
    kept = {k: v for k, v in filters.to_dict().items() if k not in fixed}
    context |= {
        "page": page,
        "filters": filters,
        "told": filters.to_dict(),
        "errors": errors,
        "fixed": fixed,
        "query": urlencode(kept),
        "now": system.now(),
        "moved": newest_archive_file(),
    }
    if request.headers.get("HX-Target") == LIST:
        return render_page(request, "audit/list.html#list", context, section="audit")
    context |= {"choices": entries.choices(), "groups": _groups(), "outcomes": entries.OUTCOMES}
    context |= {"last_review": entries.last_review()}
    return render_page(request, "audit/list.html", context, section="audit")


def _groups() -> list[tuple[str, list[str]]]:
    """Groups that have kinds, with those; kinds of no group come last."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for kind in distinct("kind"):
        found.setdefault(group_of(kind), []).append(kind)
    return [(group, kinds) for group, kinds in found.items() if kinds]


@require_safe
@staff_only
def entry(request: HttpRequest, seq: int) -> HttpResponse:
    """One entry: what happened, from where, its exact text, and the proof of it."""
    found = entries.entry(seq)
    if found is None:
        return _moved(request, seq)
    context = {"entry": found, "line": found.line, "now": system.now()}
    return render_page(request, "audit/entry.html", context, section="audit")


def _moved(request: HttpRequest, seq: int) -> HttpResponse:
    moved = archive_file_of(seq)
    if moved is None:
        return not_found_page(request, f"There is no entry {seq}")
    text = (
        f"It is in the archive file {moved.file_name}, with entries {moved.first:,} to "
        f"{moved.last:,}. "
        "The file is listed under Audit, Verify, and verifies by itself."
    )
    context = {"title": f"Entry {seq:,} was moved", "text": text}
    return render_page(request, "message.html", context, status=404, section="audit")


@require_safe
@staff_only
def proof(request: HttpRequest, seq: int) -> HttpResponseBase:
    """The proof as JSON, for who checks it elsewhere."""
    found = entries.entry(seq)
    if found is None or found.proof is None:
        return not_found_page(request, f"There is no proof of entry {seq}")
    response = JsonResponse(found.proof.to_json(), json_dumps_params={"indent": 2})
    response["Content-Disposition"] = f'attachment; filename="audit-entry-{seq}.json"'
    return response


@require_safe
@staff_only
def when(request: HttpRequest) -> HttpResponse:
    """Which model was active on each host at a moment."""
    given, now = request.GET.get("at", "").strip(), system.now()
    error, at = "", now
    if given:
        try:
            at = moment(given)
        except BadRequest as exc:
            error = exc.text
    context = {"at": at, "given": given, "error": error, "now": now}
    moved = None if error else archive_file_at(at)
    context |= {"moved": moved, "hosts": () if error or moved else then(at)}
    return render_page(
        request, "audit/when.html", context, section="audit", status=422 if error else 200
    )


@require_POST
@auditors_only
def review(request: HttpRequest) -> HttpResponseBase:
    """Mark the selected entries, or all that the page shows, as reviewed."""
    which = "shown" if request.POST.get("which") == "shown" else "seq"
    seqs = [int(text) for text in request.POST.getlist(which) if _is_number(text)]
    try:
        many = reviews.review(seqs, actor_of(request), request.POST.get("note", "").strip())
    except SwitcherError as exc:
        messages.warning(request, f"Nothing was marked. {exc.text}")
    else:
        entries = "entry" if many == 1 else "entries"
        messages.success(request, f"{many} {entries} marked as reviewed.")
    return redirect(safe_next(request, request.POST.get("next", "")) or reverse("audit"))


def _number(request: HttpRequest, name: str) -> int | None:
    text = request.GET.get(name, "")
    return int(text) if _is_number(text) else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19
