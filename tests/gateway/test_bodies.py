"""Request bodies in every form that clients send them: compressed, chunked, large."""

from __future__ import annotations

import base64
import gzip
import json
import os
import zlib
from collections.abc import Callable
from typing import Any

import brotli
import pytest
import zstandard

from switcher.models import Host
from tests.gateway.conftest import HELLO, Upstream, ask

TEXT = json.dumps(HELLO).encode()
MEMBERS = gzip.compress(TEXT[:20]) + gzip.compress(TEXT[20:])


def without_header(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def zstd_stream(data: bytes) -> bytes:
    """Compress as a stream does: the frame does not tell the size of its content."""
    packer = zstandard.ZstdCompressor().compressobj()
    return packer.compress(data) + packer.flush()


ENCODERS: dict[str, list[Callable[[bytes], bytes]]] = {
    "gzip": [gzip.compress, lambda _: MEMBERS],
    "x-gzip": [gzip.compress],
    "GZIP": [gzip.compress],
    "deflate": [zlib.compress, without_header],
    "br": [brotli.compress],
    "zstd": [zstandard.ZstdCompressor().compress, zstd_stream],
    "identity": [bytes],
    "": [bytes],
}
CASES = [(name, encode) for name, encoders in ENCODERS.items() for encode in encoders]


@pytest.mark.parametrize(("encoding", "encode"), CASES)
async def test_a_compressed_body_is_decoded(
    host: Host, upstream: Upstream, encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    reply = await ask(encode(TEXT), Content_Encoding=encoding).end()
    assert reply.status == 200
    assert upstream.body() == {**HELLO, "model": "mid-a"}
    assert "Content-Encoding" not in upstream.received[-1][2]


@pytest.mark.parametrize("encoding", ["compress", "gzip, br", "aws-chunked", "nonsense"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/chat", "/api/show"])
async def test_an_unknown_encoding_is_415_and_names_the_known_ones(
    host: Host, upstream: Upstream, path: str, encoding: str
) -> None:
    reply = await ask(TEXT, target=path, Content_Encoding=encoding).end()
    error = reply.json()["error"]
    assert reply.status == 415
    assert reply.headers["accept-encoding"] == "gzip, deflate, br, zstd"
    assert "gzip, deflate, br, zstd" in (error if path.startswith("/api") else error["message"])
    assert not upstream.received


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("sent", [TEXT, b"", b"\x1f\x8b", gzip.compress(TEXT, mtime=0)[:-4]])
async def test_a_body_that_is_not_in_its_encoding_is_400(
    host: Host, upstream: Upstream, encoding: str, sent: bytes
) -> None:
    reply = await ask(sent, Content_Encoding=encoding).end()
    assert reply.status == 400
    assert encoding in reply.json()["error"]["message"]
    assert not upstream.received


@pytest.mark.parametrize(("encoding", "encode"), [c for c in CASES if c[0] not in {"identity", ""}])
async def test_a_body_that_decodes_to_more_than_the_limit_is_413(
    host: Host,
    upstream: Upstream,
    settings: Any,
    encoding: str,
    encode: Callable[[bytes], bytes],
) -> None:
    settings.SWITCHER_GATEWAY_BODY_MB = 1
    bomb = b'{"a":"' + b"a" * 50_000_000 + b'"}'
    packed = gzip.compress(bomb) if encode(b"x") == MEMBERS else encode(bomb)
    assert len(packed) < 100_000
    reply = await ask(packed, Content_Encoding=encoding).end()
    assert reply.status == 413
    assert not upstream.received


async def test_a_picture_of_20_mb_is_passed_on(host: Host, upstream: Upstream) -> None:
    picture = base64.b64encode(os.urandom(20_000_000)).decode()
    message = {"role": "user", "content": "What is this?", "images": [picture]}
    reply = await ask({"model": "x", "messages": [message], "stream": False}, "/api/chat").end()
    assert reply.status == 200
    assert upstream.body()["messages"] == [message]


async def test_the_limit_of_a_body_is_a_setting(
    host: Host, upstream: Upstream, settings: Any
) -> None:
    settings.SWITCHER_GATEWAY_BODY_MB = 1
    large = b"{" + b" " * 1_000_000 + b"}"
    reply = await ask(large).end()
    assert (reply.status, "at most 1 MB" in reply.json()["error"]["message"]) == (413, True)
    assert (await ask(b"{}", Content_Length="1000001").end()).status == 413
    assert not upstream.received
    settings.SWITCHER_GATEWAY_BODY_MB = 2
    assert (await ask(large).end()).status == 200
