"""Static files under ASGI: compressed, and kept by browsers until their content changes."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

import brotli
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.contrib.staticfiles import finders
from django.contrib.staticfiles.storage import StaticFilesStorage
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.cache import patch_vary_headers
from whitenoise.middleware import WhiteNoiseMiddleware

_HASHED = re.compile(r"(?P<stem>.+)\.[0-9a-f]{12}(?P<suffix>\.[a-z0-9]+)")
IMMUTABLE = "max-age=31536000, public, immutable"
# Fast enough to compress a file when it is first asked for: 1 MB takes some 30 ms.
BROTLI_QUALITY = 5
_INCOMPRESSIBLE = (".png", ".woff2", ".ico")


@cache
def hashed(name: str) -> str:
    """Return the name of a static file with a hash of its content: `live.1f0c5d3a9b72.js`."""
    found = finders.find(name)
    if not isinstance(found, str):
        return name
    digest = hashlib.sha256(Path(found).read_bytes()).hexdigest()[:12]
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.{digest}{dot}{suffix}"


class HashedStorage(StaticFilesStorage):
    """Writes hashed names into pages, so that no page runs old scripts after an upgrade."""

    def url(self, name: str | None) -> str:
        return super().url(hashed(name) if name else name)


class StaticMiddleware(WhiteNoiseMiddleware):
    """WhiteNoise with compressed, unstreamed responses, in an asynchronous chain of middleware.

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
        answer = self._answer(request)
        if iscoroutinefunction(self):
            return self._in_chain(request, answer)
        return self.get_response(request) if answer is None else answer

    async def _in_chain(
        self, request: HttpRequest, answer: HttpResponse | None
    ) -> HttpResponseBase:
        if answer is not None:
            return answer
        waiting: Awaitable[HttpResponseBase] = self.get_response(request)
        return await waiting

    def _answer(self, request: HttpRequest) -> HttpResponse | None:
        """Return a static file; None if the path is not one's."""
        path = request.path_info
        found = None if path in self.files else _HASHED.fullmatch(path)
        plain = f"{found['stem']}{found['suffix']}" if found else path
        if plain not in self.files:
            return None
        response = self.serve(self.files[plain], request)
        # Another hash is that of another version, whose page asks this server.
        if found and self.static_prefix + hashed(plain.removeprefix(self.static_prefix)) == path:
            response["Cache-Control"] = IMMUTABLE
        return response

    @staticmethod
    def serve(static_file: Any, request: HttpRequest) -> HttpResponse:
        """Return the whole file, read here: some 50 kB from the page cache."""
        response = static_file.get_response(request.method, request.META)
        content = response.file.read() if response.file is not None else b""
        if response.file is not None:
            response.file.close()
        answer = HttpResponse(content, status=int(response.status))
        del answer["Content-Type"]
        for name, value in response.headers:
            answer[name] = value
        if answer.status_code == 200 and not request.path_info.endswith(_INCOMPRESSIBLE):
            _compress(answer, request)
        return answer


def _compress(answer: HttpResponse, request: HttpRequest) -> None:
    patch_vary_headers(answer, ["Accept-Encoding"])
    accepted = request.headers.get("Accept-Encoding", "")
    encoding = next((e for e in ("br", "gzip") if re.search(rf"\b{e}\b", accepted)), "")
    if encoding and answer.content:
        answer.content = _compressed(answer.content, encoding)
        answer["Content-Encoding"] = encoding
        answer["Content-Length"] = str(len(answer.content))


@cache
def _compressed(content: bytes, encoding: str) -> bytes:
    if encoding == "br":
        return bytes(brotli.compress(content, quality=BROTLI_QUALITY))
    return gzip.compress(content, mtime=0)
