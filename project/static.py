"""Static files under ASGI."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse, HttpResponseBase
from whitenoise.middleware import WhiteNoiseMiddleware


class StaticMiddleware(WhiteNoiseMiddleware):
    """WhiteNoise with whole answers: its streamed ones are synchronous iterators, which Django
    collects under ASGI with a warning for each file. Ours are small."""

    @staticmethod
    def serve(static_file: Any, request: Any) -> HttpResponseBase:
        response = static_file.get_response(request.method, request.META)
        content = response.file.read() if response.file is not None else b""
        answer = HttpResponse(content, status=int(response.status))
        del answer["Content-Type"]
        for name, value in response.headers:
            answer[name] = value
        return answer
