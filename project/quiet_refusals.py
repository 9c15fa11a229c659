"""Keeps tracebacks out of the log where nothing is wrong with our code."""

from __future__ import annotations

import logging

from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.http import UnreadablePostError
from django.http.multipartparser import MultiPartParserError

from switcher.queries.database import outage_of

# Requests that are refused: Django logs them with a traceback.
REFUSALS = (
    BadRequest,
    MultiPartParserError,
    PermissionDenied,
    SuspiciousOperation,
    UnreadablePostError,
)


class QuietRefusals(logging.Filter):
    """A filter that replaces the traceback of a refused request, or of an outage of the database,
    by its reason."""

    def filter(self, record: logging.LogRecord) -> bool:
        exc = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        reason = outage_of(exc) or (str(exc) if isinstance(exc, REFUSALS) else "")
        if exc is not None and (reason or isinstance(exc, REFUSALS)):
            text = record.getMessage()
            record.msg = text if reason in text else f"{text}: {reason}"
            record.args, record.exc_info, record.exc_text = (), None, None
        return True
