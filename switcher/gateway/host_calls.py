"""Calls to a host that need no model, such as for its lists."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from switcher.domain.model_names import ModelName
from switcher.gateway.errors import GatewayError
from switcher.ollama import relay
from switcher.ollama.errors import OllamaError
from switcher.queries.gates import Route

LIST_TIMEOUT_S = 10.0


async def host_rows(route: Route, path: str) -> dict[ModelName, dict[str, Any]]:
    """Return the rows of one of the host's lists by name. Raises GatewayError 502 or 504."""
    body, _ = await ask_host(route, "GET", path, b"")
    try:
        rows = json.loads(body)["models"] or ()  # Go encodes an empty list as null
        # A row that does not say which model it is about must not hide the others.
        named = [row for row in rows if isinstance(row, dict) and isinstance(row.get("name"), str)]
        return {ModelName.parse(row["name"]): row for row in named}
    except (ValueError, KeyError, TypeError) as exc:
        text = f"{route.host} answers, but not as Ollama."
        raise GatewayError(502, "upstream_failed", text) from exc


async def ask_host(
    route: Route, method: str, path: str, payload: bytes
) -> tuple[bytes, relay.Upstream]:
    """Return what the host answers within LIST_TIMEOUT_S. Raises GatewayError 502 or 504."""
    try:
        async with (
            asyncio.timeout(LIST_TIMEOUT_S),
            relay.ask(route.server, method, path, payload) as upstream,
        ):
            return await upstream.read(), upstream
    except TimeoutError as exc:
        text = f"{route.host} did not answer for {LIST_TIMEOUT_S:.0f} s."
        raise GatewayError(504, "upstream_timed_out", text) from exc
    except OllamaError as exc:
        raise GatewayError(502, "upstream_failed", f"{route.host}: {exc.text}") from exc
