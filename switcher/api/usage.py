"""What the gateway counted, for programs."""

from __future__ import annotations

from dataclasses import asdict

from django.http import HttpRequest, HttpResponse
from ninja import Query

from switcher.api import shapes
from switcher.api.auth import viewer
from switcher.api.views import PROBLEM, answer, api, check_names
from switcher.queries import keys
from switcher.switching.waiting import in_thread


@api.get(
    "/ollama/usage",
    auth=viewer,
    response={200: shapes.UsageList, (401, 403, 422): PROBLEM},
    summary="What clients of the gateway used",
)
async def usage(request: HttpRequest, query: Query[shapes.UsageQuery]) -> HttpResponse:
    """Requests, errors, waits and tokens by key, host and model, most requests first. Counts
    alone: no prompt and no answer is kept. What was counted in the last seconds may be missing."""
    check_names(request, shapes.UsageQuery)
    rows = await in_thread(keys.usage, query.days, query.host, query.key)
    return answer({"days": query.days, "usage": [asdict(row) for row in rows]})
