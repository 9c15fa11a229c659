"""What the gateway counted, for programs."""

from __future__ import annotations

from dataclasses import asdict

from django.http import HttpRequest, HttpResponse
from ninja import Query

from switcher.api import schemas
from switcher.api.auth import viewer
from switcher.api.views import PROBLEM, answer, api, check_names
from switcher.concurrency.threads import in_thread
from switcher.queries import keys


@api.get(
    "/ollama/usage",
    auth=viewer,
    response={200: schemas.UsageList, (401, 403, 422): PROBLEM},
    summary="What clients of the gateway used",
)
async def usage(request: HttpRequest, query: Query[schemas.UsageQuery]) -> HttpResponse:
    """Requests, errors, waits and tokens by key, host and model, most requests first. Counts
    alone: no prompt and no answer is kept. What was counted in the last seconds may be missing."""
    check_names(request, schemas.UsageQuery)
    rows = await in_thread(keys.usage, query.days, query.host, query.key)
    return answer({"days": query.days, "usage": [asdict(row) for row in rows]})
