"""What the command `ollama` sends with OLLAMA_HOST at the gateway: it can set nothing but the
address, so a key is part of the path."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web

from switcher.concurrency.threads import in_thread
from switcher.gateway.addresses import is_gateway_request, split_key
from switcher.models import AuditEntry, Host
from switcher.records import keys
from switcher.records.keys import NewKey
from tests.gateway.conftest import ADMIN, Exchange, Upstream, ask

AWAY = "192.0.2.7"


async def key_path(**facts: Any) -> str:
    _, token = await in_thread(keys.make_key, NewKey("bot", **facts), ADMIN)
    return f"/key/{token}"


async def get(target: str, method: str = "GET") -> Exchange:
    return await ask(target=target, method=method, client=AWAY).end()


async def test_a_key_in_the_path_opens_the_gateway(host: Host, upstream: Upstream) -> None:
    path = await key_path()
    assert (await get("/api/tags")).status == 401
    listed = (await get(f"{path}/v1/models")).json()["data"]
    assert [row["id"] for row in listed] == ["mid-a"]
    assert (await get(f"{path}/", "HEAD")).status == 200
    reply = await ask({"model": "x"}, target=f"{path}/api/chat", client=AWAY).end()
    assert (reply.status, upstream.received[-1][0]) == (200, "/api/chat")


async def test_a_key_in_the_path_has_its_own_rights(host: Host, upstream: Upstream) -> None:
    async def copied(request: web.Request) -> web.StreamResponse:
        return web.Response()

    upstream.answer = copied
    for manage, status in ((False, 403), (True, 200)):
        path = await key_path(manage=manage)
        body = {"source": "mid-a", "destination": "mid-b"}
        assert (await ask(body, target=f"{path}/api/copy", client=AWAY).end()).status == status


async def test_a_wrong_key_in_the_path_is_refused_and_recorded(host: Host) -> None:
    assert (await get("/key/sb-wrong/api/tags")).status == 401
    assert await in_thread(AuditEntry.objects.filter(kind="key.refused").count) == 1


@pytest.mark.parametrize("path", ["/ollama/models", "/hosts/", "/admin/"])
async def test_a_key_in_the_path_opens_nothing_but_the_gateway(host: Host, path: str) -> None:
    target = f"{await key_path()}{path}"
    assert is_gateway_request({"path": target, "method": "GET", "headers": []})
    reply = await get(target)
    assert reply.status == 404
    assert "sb-" not in reply.body.decode()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/key/sb-a/api/tags", ("sb-a", "/api/tags")),
        ("/key/sb-a", ("sb-a", "/")),
        ("//key/sb-a//api/tags", ("sb-a", "//api/tags")),
        ("/key/other/api/tags", ("", "/key/other/api/tags")),
        ("/keys/", ("", "/keys/")),
        ("/api/tags", ("", "/api/tags")),
    ],
)
def test_a_key_is_split_from_the_path(path: str, found: tuple[str, str]) -> None:
    assert split_key(path) == found


@pytest.mark.parametrize("keep_alive", [0, 0.0, "0", "0s", "0m"])
@pytest.mark.parametrize("path", ["/api/generate", "/api/chat"])
async def test_stopping_the_model_is_refused_with_the_way_to_do_it(
    host: Host, upstream: Upstream, path: str, keep_alive: Any
) -> None:
    reply = await ask({"model": "mid-a", "keep_alive": keep_alive}, target=path).end()
    assert (reply.status, "manage.py unload" in reply.json()["error"]) == (403, True)
    assert upstream.received == []


@pytest.mark.parametrize(
    "sent", [{"prompt": "Hi", "keep_alive": 0}, {"keep_alive": "5m"}, {}], ids=str
)
async def test_other_requests_are_passed_on(
    host: Host, upstream: Upstream, sent: dict[str, Any]
) -> None:
    body = {"model": "mid-a", "stream": False, **sent}
    assert (await ask(body, target="/api/generate").end()).status == 200
