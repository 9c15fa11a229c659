"""A request to a model, as the gateway's modules pass it along."""

from __future__ import annotations

from dataclasses import dataclass

from switcher.gateway.body import ParsedRequest
from switcher.gateway.endpoints import Endpoint
from switcher.gateway.errors import Headers
from switcher.gateway.form import ParsedForm
from switcher.gateway.meter import RequestUsage
from switcher.gateway.response import ResponseWriter
from switcher.queries.gates import NOT_LOADED, LoadedModel


@dataclass(slots=True)
class ProxyRequest:
    """A request to a model: what the client sent, and where the reply and usage counts go.

    `host` is the Ollama host that the client names; empty for the default host. Once the model is
    selected, `reply_headers` say what was changed in the request, and `hide_usage` is set if it was
    the gateway, not the client, that asked for token counts. `loaded` is how the model
    was last seen.
    """

    host: str
    endpoint: Endpoint
    body: ParsedRequest | ParsedForm
    response: ResponseWriter
    usage: RequestUsage
    reply_headers: Headers = ()
    hide_usage: bool = False
    loaded: LoadedModel = NOT_LOADED

    @property
    def streams(self) -> bool:
        """Return whether the client wants a streamed reply."""
        return self.body.streams(self.endpoint.streams)
