"""Download archive files, and erase the personal data of an account."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_http_methods, require_POST

from switcher.audit.archive_files import archive_file_of
from switcher.audit.erasure import WAITS, held_of
from switcher.audit.erasure import erase as erase_personal
from switcher.audit.export import begin_archive_file, stream
from switcher.domain.errors import SwitcherError
from switcher.panel.page import actor_of, admins_only, exporters_only, not_found_page, render_page


# A POST, like every export, since it is recorded as an entry.
@require_POST
@exporters_only
def segment(request: HttpRequest, first: int) -> HttpResponseBase:
    """Download an archive file."""
    found = archive_file_of(first)
    if found is None:
        return not_found_page(request, f"There is no file of entry {first}")
    if not found.is_there:
        text = f"{found.file_name} is no longer in its folder. Put it back and try again."
        context = {"title": "Nothing was exported", "text": text}
        return render_page(request, "message.html", context, status=404)
    job = begin_archive_file(found, actor_of(request))
    response = StreamingHttpResponse(stream(job), content_type=job.content_type)
    response["Content-Disposition"] = f'attachment; filename="{found.file_name}"'
    response["Content-Length"] = str(found.path.stat().st_size)
    response["Cache-Control"] = "no-store"
    return response


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
