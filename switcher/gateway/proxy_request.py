"""A request to a model, as the gateway's modules pass it along."""

from __future__ import annotations

from dataclasses import dataclass

from switcher.domain.specs import Spec
from switcher.gateway.body import ParsedRequest
from switcher.gateway.endpoints import Endpoint
from switcher.gateway.errors import Headers
from switcher.gateway.form import ParsedForm
from switcher.gateway.meter import RequestUsage
from switcher.gateway.response import ResponseWriter
from switcher.queries.gates import NOT_LOADED, LoadedModel


@dataclass(frozen=True, slots=True)
class Detour:
    """Where a request goes instead: to a host, and there to a profile's model if `spec` is set.
    `wanted` is the model that is not loaded."""

    host: str
    wanted: str = ""
    spec: Spec | None = None


@dataclass(slots=True)
class ProxyRequest:
    """A request to a model: what the client sent, and where the reply and usage counts go.

    `host` is the Ollama host that the client names; empty for the default host. Once the model is
    selected, `reply_headers` say what was changed in the request, and `hide_usage` is set if it was
    the gateway, not the client, that asked for token counts. `loaded` is how the model
    was last seen. A `detour` is taken because the model that was wanted is not loaded.
    """

    host: str
    endpoint: Endpoint
    body: ParsedRequest | ParsedForm
    response: ResponseWriter
    usage: RequestUsage
    reply_headers: Headers = ()
    hide_usage: bool = False
    loaded: LoadedModel = NOT_LOADED
    detour: Detour | None = None

    @property
    def streams(self) -> bool:
        """Return whether the client wants a streamed reply."""
        return self.body.streams(self.endpoint.streams)
