"""Export the entries that a page's filter selects."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.views.decorators.http import require_POST

from switcher.audit.export import begin, stream
from switcher.audit.filters import read_filters
from switcher.domain.errors import BadRequest
from switcher.panel.page import actor_of, exporters_only, render_page


# A POST, since an export is recorded as an entry, and browsers that prefetch links must not cause
# one. `GET /audit/export` of the API records one too; no page links to it.
@require_POST
@exporters_only
def export(request: HttpRequest) -> HttpResponseBase:
    """Stream the export."""
    try:
        filters = read_filters(request.POST.dict())
        job = begin(request.POST.get("format", ""), filters, actor_of(request))
    except BadRequest as exc:
        context = {"title": "Nothing was exported", "text": exc.text}
        return render_page(request, "message.html", context, status=422)
    response = StreamingHttpResponse(stream(job), content_type=job.content_type)
    response["Content-Disposition"] = f'attachment; filename="{job.file_name}"'
    response["Cache-Control"] = "no-store"
    return response
