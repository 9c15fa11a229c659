"""Errors of the gateway, in the style of the API that the client uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from switcher.domain.versions import since_of
from switcher.gateway.endpoints import ApiStyle

Headers = Sequence[tuple[str, str]]

_OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
}


_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class GatewayError(Exception):
    """An error to send as the response. `param` names the member that is wrong."""

    def __init__(
        self, status: int, code: str, text: str, param: str | None = None, headers: Headers = ()
    ) -> None:
        super().__init__(text)
        self.status = status
        self.code = code
        self.param = param
        self.headers = headers

    def body(self, style: ApiStyle) -> dict[str, Any]:
        """Return the error as the client's API writes it."""
        return error_body(style, self.status, self.code, str(self), self.param)


def not_on_host(host: str, path: str) -> GatewayError:
    """Return the error for an address that does not exist on the host's server."""
    since = since_of(path)
    came = f", which came with Ollama {since}" if since else ""
    return GatewayError(404, "not_on_host", f"The server of {host} has no {path}{came}.")


def error_body(
    style: ApiStyle, status: int, code: str, text: str, param: str | None = None
) -> dict[str, Any]:
    """Return an error as the API of this style writes it (fact 25)."""
    if style is ApiStyle.OLLAMA:
        return {"error": text}
    if style is ApiStyle.ANTHROPIC:
        kind = _ANTHROPIC_TYPES.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": text}}
    kind = _OPENAI_TYPES.get(status, "api_error")
    return {"error": {"message": text, "type": kind, "param": param, "code": code}}
