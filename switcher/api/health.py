"""`/health`: for a monitor, without signing in. Counts, times and sentences; nothing secret."""

from __future__ import annotations

import logging
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from switcher.audit import health as audit

log = logging.getLogger(__name__)


@require_safe
def health(request: HttpRequest) -> HttpResponse:
    """200 whenever the server can serve, also with problems: a dead sink of the audit trail is no
    reason to take the server away from its clients. Look at `ok`."""
    response = JsonResponse(_told())
    response["Cache-Control"] = "no-store"
    return response


def _told() -> dict[str, Any]:
    try:
        return audit.health().to_json()
    except Exception:
        # A monitor has to hear of it, whatever it is.
        log.exception("how the audit trail stands could not be read")
        return {"ok": False, "problems": [audit.UNKNOWN], "audit": None}
