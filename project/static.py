"""Static files under ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from whitenoise.middleware import WhiteNoiseMiddleware


class StaticMiddleware(WhiteNoiseMiddleware):
    """WhiteNoise with unstreamed responses, in an asynchronous chain of middleware.

    WhiteNoise streams files with synchronous iterators. Under ASGI, Django reads those into memory
    with a warning for each file; our files are small. A synchronous middleware in the chain would
    also hold a thread for every waiting request, even after the client has disconnected.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any], **kwargs: Any) -> None:
        super().__init__(get_response, **kwargs)
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        static_file = self.files.get(request.path_info)
        if iscoroutinefunction(self):
            return self._answer(request, static_file)
        if static_file is not None:
            return self.serve(static_file, request)
        return self.get_response(request)

    async def _answer(self, request: HttpRequest, static_file: Any) -> HttpResponseBase:
        if static_file is not None:
            return self.serve(static_file, request)
        waiting: Awaitable[HttpResponseBase] = self.get_response(request)
        return await waiting

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponseBase:
        """Return the whole file, read here: some 50 kB from the page cache."""
        response = static_file.get_response(request.method, request.META)
        content = response.file.read() if response.file is not None else b""
        if response.file is not None:
            response.file.close()
        answer = HttpResponse(content, status=int(response.status))
        del answer["Content-Type"]
        for name, value in response.headers:
            answer[name] = value
        return answer
