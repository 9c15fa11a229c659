"""Decodes compressed request bodies, and limits their decoded size.

A kilobyte can decode to a gigabyte, so each decoder is asked for at most one byte more than the
limit.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable

import brotli
import zstandard

from switcher.gateway.errors import GatewayError

_GZIP = zlib.MAX_WBITS | 16
_WITHOUT_HEADER = -zlib.MAX_WBITS
# RFC 8878 recommends that decoders accept windows of 8 MB; the format allows terabytes.
_ZSTD_WINDOW_BYTES = 8 * 2**20


def decode(body: bytes, encoding: str, limit: int) -> bytes:
    """Return the decoded body, cut off one byte above `limit`.

    Raises GatewayError: 415 for an unknown encoding, 400 for a body that cannot be decoded.
    """
    decoder = _DECODERS.get(encoding)
    if decoder is None:
        known = ", ".join(_DECODERS)
        raise unsupported(f"Send {known} or no content encoding, not {encoding!r}.", known)
    try:
        return decoder(body, limit + 1)
    except (zlib.error, brotli.error, zstandard.ZstdError, EOFError) as exc:
        text = f"The body is not {encoding}, as its Content-Encoding says."
        raise GatewayError(400, "invalid_encoding", text) from exc


def unsupported(text: str, known: str = "identity") -> GatewayError:
    """Return the error that names the `known` encodings (RFC 9110, 15.5.16)."""
    headers = [("accept-encoding", known)]
    return GatewayError(415, "unsupported_encoding", text, headers=headers)


def _gzip(body: bytes, limit: int) -> bytes:
    """Decode a gzip file, which may consist of several members (RFC 1952, 2.2)."""
    if not body:
        raise EOFError
    parts, left = [], limit
    while body and left:
        decoder = zlib.decompressobj(_GZIP)
        parts.append(_inflate(decoder, body, left))
        left -= len(parts[-1])
        body = decoder.unused_data
    return b"".join(parts)


def _deflate(body: bytes, limit: int) -> bytes:
    """Decode with or without zlib's header: the RFC requires it, but some clients leave it out."""
    try:
        return _inflate(zlib.decompressobj(), body, limit)
    except zlib.error:
        return _inflate(zlib.decompressobj(_WITHOUT_HEADER), body, limit)


def _inflate(decoder: zlib._Decompress, body: bytes, limit: int) -> bytes:
    decoded = decoder.decompress(body, limit)
    if not decoder.eof and len(decoded) < limit:
        raise EOFError
    return decoded


def _brotli(body: bytes, limit: int) -> bytes:
    decoder, parts, left = brotli.Decompressor(), [], limit
    while left > 0 and not decoder.is_finished():
        parts.append(decoder.process(body, output_buffer_limit=left))
        if not parts[-1] and not body:
            raise EOFError
        left -= len(parts[-1])
        body = b""
    return b"".join(parts)[:limit]


def _zstd(body: bytes, limit: int) -> bytes:
    decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    reader = decoder.stream_reader(io.BytesIO(body), read_across_frames=True)
    decoded = reader.read(limit)
    if not decoded:
        raise EOFError
    return decoded


_DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
