"""The export of the audit trail, streamed."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from ninja import Query

from switcher.api.auth import actor_of, exporter
from switcher.api.parameters import ExportQuery
from switcher.api.views import PROBLEM, api, check_names
from switcher.audit.export import begin, stream
from switcher.audit.filters import read_filters
from switcher.concurrency.threads import in_thread

CONTENT = {
    media_type: {"schema": {"type": "string"}}
    for media_type in ("application/x-ndjson", "text/csv")
}


@api.get(
    "/audit/export",
    auth=exporter,
    response={200: None, (401, 403, 422): PROBLEM},
    summary="Export the audit trail",
    openapi_extra={"responses": {200: {"content": CONTENT}}},
)
async def export(request: HttpRequest, query: Query[ExportQuery]) -> HttpResponseBase:
    """Return the trail, or a selection of it by the filters.

    `jsonl` are lines that switchboard_verify.py checks; `csv` is for people. The export ends at the
    newest checkpoint, and is recorded in the trail itself.
    """
    check_names(request, ExportQuery)
    filters = read_filters(query.model_dump())
    job = await in_thread(begin, query.format, filters, actor_of(request))
    response = StreamingHttpResponse(stream(job), content_type=job.content_type)
    response["Content-Disposition"] = f'attachment; filename="{job.file_name}"'
    response["Cache-Control"] = "no-store"
    return response
