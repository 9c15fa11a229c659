"""What an answer without a reason usually means."""

from __future__ import annotations

import re

_API_PATH = re.compile(r"/(v1|api)$")


def hint(status: int, base_url: str) -> str:
    """Return what to check after such an answer, in sentences; empty if nothing is known."""
    api_path = _API_PATH.search(base_url)
    if status == 404 and api_path:
        return f" The host's address ends in {api_path[0]}: write it without."
    if status == 401:
        return " The server or a proxy in front of it wants credentials: set them on the host."
    if status == 403:
        return (
            " Ollama answers so if it listens on loopback and the request names another host: let "
            "the proxy in front of it send Host: localhost, or start Ollama with "
            "OLLAMA_HOST=0.0.0.0. It also does for an Origin that OLLAMA_ORIGINS does not list."
        )
    return ""
