"""The one value that the gateway hands on for a request to a model."""

from __future__ import annotations

from dataclasses import dataclass

from switcher.gateway.body import ParsedRequest
from switcher.gateway.endpoints import Endpoint
from switcher.gateway.errors import Headers
from switcher.gateway.meter import RequestUsage
from switcher.gateway.response import ResponseWriter


@dataclass(slots=True)
class ProxyRequest:
    """A request to a model: what the client sent, and where its reply and its usage go.

    `host` is the Ollama host that the client names; empty for the default host. Once the model is
    selected, `reply_headers` say what was done to the request, and `hide_usage` whether the host
    was asked for token counts that the client did not ask for.
    """

    host: str
    endpoint: Endpoint
    body: ParsedRequest
    response: ResponseWriter
    usage: RequestUsage
    reply_headers: Headers = ()
    hide_usage: bool = False

    @property
    def streams(self) -> bool:
        """Whether the client wants the reply in parts."""
        return self.body.streams(self.endpoint.streams)
