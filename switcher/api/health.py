"""`/health`: for a monitor, without signing in. Counts, times and sentences; nothing secret."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from switcher.auditing import health as audit


@require_safe
def health(request: HttpRequest) -> HttpResponse:
    """200 whenever the server can serve, also with problems: a dead sink of the audit trail is no
    reason to take the server away from its clients. Look at `ok`."""
    response = JsonResponse(audit.health().to_json())
    response["Cache-Control"] = "no-store"
    return response
