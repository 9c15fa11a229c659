"""Verify the audit trail; export it; download archive files, public keys and the verifier."""

from __future__ import annotations

from pathlib import Path

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from switcher.audit import health, verification
from switcher.audit.archive_files import archive_file_of, archive_files
from switcher.audit.export import begin, begin_archive_file, stream
from switcher.audit.filters import read_filters
from switcher.audit.paths import key_files
from switcher.audit.signing_keys import KeyRefused
from switcher.audit.verifier import switchboard_verify
from switcher.domain.clock import system
from switcher.domain.errors import BadRequest
from switcher.panel.page import (
    actor_of,
    exporters_only,
    is_htmx,
    message_page,
    not_found_page,
    render_page,
    staff_only,
)

NOT_EXPORTED = "Nothing was exported"
VERIFIER = Path(switchboard_verify.__file__)


@require_http_methods(["GET", "HEAD", "POST"])
@staff_only
def verify(request: HttpRequest) -> HttpResponseBase:
    """Show the state of the proofs; a POST starts verifying the whole trail."""
    if request.method != "POST":
        found = health.health()
        context = {"health": found, "trail": found.trail, "progress": verification.progress()}
        context |= {"archive_files": archive_files()}
        return render_page(
            request, "audit/verify.html", context | {"now": found.trail.now}, section="audit"
        )
    if not verification.start(actor_of(request)) and not is_htmx(request):
        messages.info(request, "A verification is running already.")
    if is_htmx(request):
        return _progress(request)
    return redirect("audit-verify")


@require_safe
@staff_only
def progress(request: HttpRequest) -> HttpResponseBase:
    """Show how far a verification is: the fragment reloads itself while one runs."""
    return _progress(request) if is_htmx(request) else redirect("audit-verify")


def _progress(request: HttpRequest) -> HttpResponse:
    now = system.now()
    context = {"progress": verification.progress(), "trail": health.trail_status(now), "now": now}
    return render_page(request, "audit/verify.html#verification", context)


@require_safe
@staff_only
def public_key(request: HttpRequest) -> HttpResponse:
    """Download the public keys of all generations, as the verifier reads them."""
    try:
        keys = key_files().public_keys()
    except KeyRefused:
        keys = []
    if not keys:
        return not_found_page(request, "There is no public key yet")
    text = "".join(f"{key}\n" for key in keys)
    return _download(text.encode(), "audit-keys.pub", "text/plain; charset=utf-8")


@require_safe
@staff_only
def verifier(request: HttpRequest) -> HttpResponse:
    """Download the verifier, the same file that this server uses."""
    return _download(VERIFIER.read_bytes(), VERIFIER.name, "text/x-python; charset=utf-8")


def _download(content: bytes, name: str, kind: str) -> HttpResponse:
    disposition = f'attachment; filename="{name}"'
    return HttpResponse(content, kind, headers={"Content-Disposition": disposition})


# Exports are POST requests, since each is recorded as an entry, and browsers that prefetch links
# must not cause one. `GET /audit/export` of the API records one too; no page links to it.


@require_POST
@exporters_only
def export(request: HttpRequest) -> HttpResponseBase:
    """Stream the entries that a page's filter selects."""
    try:
        filters = read_filters(request.POST.dict())
        job = begin(request.POST.get("format", ""), filters, actor_of(request))
    except BadRequest as exc:
        return message_page(request, NOT_EXPORTED, exc.text, 422)
    return StreamingHttpResponse(stream(job), headers=job.headers)


@require_POST
@exporters_only
def segment(request: HttpRequest, first: int) -> HttpResponseBase:
    """Download an archive file."""
    found = archive_file_of(first)
    if found is None:
        return not_found_page(request, f"There is no file of entry {first}")
    if not found.is_there:
        text = f"{found.file_name} is no longer in its folder. Put it back and try again."
        return message_page(request, NOT_EXPORTED, text, 404)
    job = begin_archive_file(found, actor_of(request))
    headers = job.headers | {"Content-Length": str(found.path.stat().st_size)}
    return StreamingHttpResponse(stream(job), headers=headers)
