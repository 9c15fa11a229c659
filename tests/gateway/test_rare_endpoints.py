"""Addresses that only some servers have: passed on, or a 404 that says so."""

from __future__ import annotations

import io
from email.message import Message
from typing import Any

import pytest
from aiohttp import FormData, web

from switcher.concurrency.threads import in_thread
from switcher.domain.specs import Spec
from switcher.domain.versions import since_of
from switcher.models import Host
from tests.gateway.conftest import Upstream, ask, set_active

RARE = {
    "/v1/rerank": {"query": "q", "documents": ["a", "b"], "top_n": 1},
    "/v1/images/generations": {"prompt": "a cat", "n": 1, "size": "64x64"},
    "/v1/images/edits": {"prompt": "a cat", "image": "iVBORw0KGgo="},
    "/v1/audio/translations": {"prompt": "x"},
}
SOUND = bytes(range(256)) * 40 + b"\r\n--\r\nmodel\r\n"


@pytest.mark.parametrize("path", RARE)
async def test_it_is_passed_on_with_the_selected_model(
    host: Host, upstream: Upstream, path: str
) -> None:
    reply = await ask({"model": "x", **RARE[path]}, target=path).end()
    assert (reply.status, upstream.received[0][0]) == (200, path)
    assert upstream.body() == {"model": "mid-a", **RARE[path]}
    assert reply.headers["x-switchboard-model"] == "mid-a"


@pytest.mark.parametrize("path", [*RARE, "/v1/audio/transcriptions"])
async def test_a_host_without_it_is_named_in_a_404(
    host: Host, upstream: Upstream, path: str
) -> None:
    async def older(request: web.Request) -> web.StreamResponse:
        return web.Response(status=404, text="404 page not found")

    upstream.answer = older
    reply = await ask({"model": "x"}, target=path).end()
    error = reply.json()["error"]
    assert (reply.status, error["code"]) == (404, "not_on_host")
    since = since_of(path)
    came = f", which came with Ollama {since}" if since else ""
    assert error["message"] == f"The server of tower has no {path}{came}."


async def test_the_hosts_own_404_is_passed_on(host: Host, upstream: Upstream) -> None:
    async def unknown(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "model 'mid-a' not found"}}, status=404)

    upstream.answer = unknown
    reply = await ask({"model": "x"}, target="/v1/rerank").end()
    assert (reply.status, reply.json()["error"]["message"]) == (404, "model 'mid-a' not found")


async def test_runner_options_of_the_profile_refuse_it(host: Host, upstream: Upstream) -> None:
    await in_thread(set_active, host, Spec("long", "mid-a", options={"num_ctx": 8192}))
    reply = await ask({"model": "x"}, target="/v1/rerank").end()
    assert (reply.status, reply.json()["error"]["code"]) == (400, "not_with_these_options")
    assert "Use /v1" not in reply.json()["error"]["message"]
    assert not upstream.received


# -- forms


class Written:
    """A stand-in for a connection that collects what is written."""

    def __init__(self) -> None:
        self.data = b""

    async def write(self, data: bytes) -> None:
        self.data += data


async def form(**fields: str) -> tuple[bytes, str]:
    """Return a form with a sound file, and its content type."""
    made = FormData()
    for name, value in fields.items():
        made.add_field(name, value)
    made.add_field("file", io.BytesIO(SOUND), filename="a.wav", content_type="audio/wav")
    payload, written = made(), Written()
    await payload.write(written)  # type: ignore[arg-type]
    return written.data, payload.headers["Content-Type"]


class FormHost:
    """Answers as a host that transcribes, and keeps the last form."""

    def __init__(self, upstream: Upstream, **reply: Any) -> None:
        self.fields: list[tuple[str, bytes]] = []
        self._reply = reply or {"text": '{"text":"Hello"}', "content_type": "application/json"}
        upstream.answer = self.answer

    async def answer(self, request: web.Request) -> web.StreamResponse:
        header = Message()
        header["Content-Type"] = request.headers["Content-Type"]
        boundary = str(header.get_param("boundary")).encode()
        parts = (b"\r\n" + await request.read()).split(b"\r\n--" + boundary)[1:-1]
        for part in parts:
            head, _, content = part.partition(b"\r\n\r\n")
            header = Message()
            header["X"] = head.decode().split("isposition: ", 1)[1].split("\r\n")[0]
            self.fields.append((str(header.get_param("name", header="X")), content))
        return web.Response(**self._reply)


async def test_the_model_in_a_form_is_replaced_and_the_rest_stays(
    host: Host, upstream: Upstream
) -> None:
    answers = FormHost(upstream)
    body, content_type = await form(model="whisper-1", language="en")
    reply = await ask(body, target="/v1/audio/transcriptions", Content_Type=content_type).end()
    assert (reply.status, reply.json()) == (200, {"text": "Hello"})
    assert answers.fields == [("model", b"mid-a"), ("language", b"en"), ("file", SOUND)]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-subrip", "text/vtt; charset=utf-8"])
async def test_a_transcript_has_the_form_that_the_client_asked_for(
    host: Host, upstream: Upstream, kind: str
) -> None:
    FormHost(upstream, body=b"Hello", headers={"Content-Type": kind})
    body, content_type = await form(model="whisper-1", response_format="text")
    reply = await ask(body, target="/v1/audio/transcriptions", Content_Type=content_type).end()
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"Hello", kind)


async def test_a_form_without_a_model_gets_one(host: Host, upstream: Upstream) -> None:
    answers = FormHost(upstream)
    body, content_type = await form(prompt="x")
    await ask(body, target="/v1/audio/transcriptions", Content_Type=content_type).end()
    assert answers.fields[0] == ("model", b"mid-a")


PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'


@pytest.mark.parametrize(
    "sent",
    [
        PART % (b"model", b"x") + PART % (b"model", b"y") + b"--b--\r\n",
        b"--b\r\ncontent-disposition:form-data;name=model\r\n\r\nx\r\n--b--",
        b"preamble\r\n" + PART % (b"model", b"x") + b"--b--\r\nepilogue",
        b"--b\r\nContent-Disposition: form-data; NAME=model\r\n\r\nx\r\n--b--",
    ],
)
async def test_no_spelling_of_a_form_bypasses_the_policy(
    host: Host, upstream: Upstream, sent: bytes
) -> None:
    answers = FormHost(upstream)
    kind = "multipart/form-data; boundary=b"
    await ask(sent, target="/v1/audio/transcriptions", Content_Type=kind).end()
    assert answers.fields == [("model", b"mid-a")]


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (b"", "multipart/form-data; boundary=b"),
        (b"--b--", "multipart/form-data"),
        (b"--b\r\n\r\nx\r\n--b--", "multipart/form-data; boundary=b"),
        (PART % (b"a", b"x\r\n--bc") + b"--b--", "multipart/form-data; boundary=b"),
        (PART % (b"a", b"x"), "multipart/form-data; boundary=b"),
        (PART % (b"a", b"x") * 300 + b"--b--", "multipart/form-data; boundary=b"),
        (b"--b--", "multipart/form-data; boundary=" + "b" * 71),
    ],
)
async def test_a_form_that_cannot_be_read_is_refused(
    host: Host, upstream: Upstream, sent: bytes, kind: str
) -> None:
    reply = await ask(sent, target="/v1/audio/transcriptions", Content_Type=kind).end()
    assert (reply.status, reply.json()["error"]["code"]) == (400, "invalid_form")
    assert not upstream.received


async def test_other_addresses_take_no_form(host: Host, upstream: Upstream) -> None:
    body, content_type = await form(model="x")
    reply = await ask(body, target="/v1/chat/completions", Content_Type=content_type).end()
    assert (reply.status, reply.json()["error"]["code"]) == (400, "invalid_json")
