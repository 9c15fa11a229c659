"""`/health`: the state of the audit trail, for monitors without an account; holds no secrets."""

from __future__ import annotations

import logging
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from switcher.audit import health as audit

log = logging.getLogger(__name__)


@require_safe
def health(request: HttpRequest) -> HttpResponse:
    """Return 200 whenever the server can respond, even with problems: a dead sink of the audit
    trail is no reason to take the server out of service. Monitors check `ok`.
    """
    response = JsonResponse(_status())
    response["Cache-Control"] = "no-store"
    return response


def _status() -> dict[str, Any]:
    try:
        return audit.health().to_json()
    except Exception:
        # Monitors must learn of any error.
        log.exception("the state of the audit trail could not be read")
        return {"ok": False, "problems": [audit.UNKNOWN], "audit": None}
