"""Compresses pages and the answers of the API."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.middleware.gzip import GZipMiddleware

_TYPES = ("text/html", "application/json", "application/problem+json")


class PageCompression(GZipMiddleware):
    """Django's gzip for pages and JSON that are sent whole, without a thread of its own.

    BREACH guesses a secret in a page from its compressed size, over many requests with guesses in
    them. The only secret that pages repeat is the CSRF token, which Django masks anew each time;
    Django also adds a random number of bytes. A key is shown on one page, once.
    """

    async def __acall__(self, request: HttpRequest) -> Any:
        response: Any = self.get_response(request)
        return self.process_response(request, await response)

    def process_response(self, request: HttpRequest, response: Any) -> Any:
        kind = response.headers.get("Content-Type", "")
        if isinstance(response, HttpResponse) and kind.startswith(_TYPES):
            return super().process_response(request, response)
        return response
