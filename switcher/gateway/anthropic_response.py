"""The response to a client of Anthropic's API, which carries the id of the request."""

from __future__ import annotations

import uuid

from switcher.gateway.endpoints import ApiStyle
from switcher.gateway.errors import GatewayError, Headers
from switcher.gateway.response import ResponseWriter, Send, to_json


class AnthropicResponse(ResponseWriter):
    """A response with a request id in its head, and in the body of an error.

    https://platform.claude.com/docs/en/api/errors
    """

    def __init__(self, send: Send, headers: Headers = ()) -> None:
        self._request_id = f"req_{uuid.uuid4().hex[:24]}"
        super().__init__(send, [*headers, ("request-id", self._request_id)])

    async def send_error(self, error: GatewayError, style: ApiStyle) -> None:
        body = error.body(style) | {"request_id": self._request_id}
        await self.send_whole(error.status, to_json(body), error.headers)
