"""Keeps keys of the gateway out of the logs: some clients can only send them in the address."""

from __future__ import annotations

import logging
import re

_PARAMETER = re.compile(r"([?&]key=)[^&\s\"']+", re.IGNORECASE)
_PATH = re.compile(r"(/key/)[^/?\s\"']+")
_KEY = re.compile(r"sb-[\w-]{20,}", re.ASCII)


def hidden(text: str) -> str:
    """Return the text without keys."""
    return _KEY.sub("sb-…", _PATH.sub(r"\1…", _PARAMETER.sub(r"\1…", text)))


class HideKeys(logging.Filter):
    """A filter that replaces the keys in a record's message and in its arguments."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, str):
            record.msg = hidden(record.msg)
        if isinstance(record.args, tuple):
            record.args = tuple(hidden(a) if isinstance(a, str) else a for a in record.args)
        return True
