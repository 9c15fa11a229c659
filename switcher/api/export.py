"""The audit trail for programs: streamed, in both forms, narrowed like the pages."""

from __future__ import annotations

from typing import Any, cast

from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from ninja import Query

from switcher.api import schemas
from switcher.api.auth import actor_of, exporter
from switcher.api.views import PROBLEM, api, check_names
from switcher.audit.export import begin, stream
from switcher.audit.filters import read_filters
from switcher.concurrency.threads import in_thread


@api.get(
    "/audit/export",
    auth=exporter,
    response={200: None, (401, 403, 422): PROBLEM},
    summary="Export the audit trail",
)
async def export(request: HttpRequest, query: Query[schemas.ExportQuery]) -> HttpResponseBase:
    """`jsonl`: lines that switchboard_verify.py checks; `csv`: for people. The whole trail without
    a filter. It ends where the newest checkpoint ends, and is an entry of the trail itself."""
    check_names(request, schemas.ExportQuery)
    filters = read_filters(query.model_dump())
    actor = actor_of(request, cast(Any, request).auth)
    job = await in_thread(begin, query.format, filters, actor)
    response = StreamingHttpResponse(stream(job), content_type=job.content_type)
    response["Content-Disposition"] = f'attachment; filename="{job.file_name}"'
    response["Cache-Control"] = "no-store"
    return response
