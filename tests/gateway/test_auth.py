from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from switcher.concurrency.threads import in_thread
from switcher.models import Host
from tests import make
from tests.gateway.conftest import Upstream, ask


def sign_in(is_staff: bool = True) -> str:
    user = make.user("olga", role="", is_staff=is_staff)
    client = Client()
    make.sign_in(client, user)
    return f"other=1; session_id={client.cookies['session_id'].value}"


async def test_signed_in_staff_are_served(host: Host, upstream: Upstream, settings: Any) -> None:
    settings.SWITCHER_OPEN_GATEWAY = False
    cookie = await in_thread(sign_in)
    assert (await ask(Cookie=cookie, client="192.0.2.7").end()).status == 200


@pytest.mark.parametrize("cookie", ["", "session_id=", "session_id=forged", "a=b; ;=;"])
async def test_without_a_session_it_is_401(
    host: Host, upstream: Upstream, settings: Any, cookie: str
) -> None:
    settings.SWITCHER_OPEN_GATEWAY = False
    reply = await ask(Cookie=cookie).end()
    assert reply.status == 401
    assert reply.json()["error"]["type"] == "authentication_error"
    assert "www-authenticate" in reply.headers
    assert not upstream.received


async def test_users_who_are_not_staff_get_403(
    host: Host, upstream: Upstream, settings: Any
) -> None:
    settings.SWITCHER_OPEN_GATEWAY = False
    cookie = await in_thread(sign_in, False)
    assert (await ask(Cookie=cookie).end()).status == 403


async def test_a_changed_password_ends_the_session(
    host: Host, upstream: Upstream, settings: Any
) -> None:
    settings.SWITCHER_OPEN_GATEWAY = False
    cookie = await in_thread(sign_in)
    await in_thread(lambda: User.objects.update(password="another"))
    assert (await ask(Cookie=cookie).end()).status == 401


@pytest.mark.parametrize("client", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
async def test_an_open_gateway_serves_this_machine(
    host: Host, upstream: Upstream, client: str
) -> None:
    assert (await ask(client=client).end()).status == 200


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        ("192.0.2.7", {}),
        ("", {}),
        ("127.0.0.1", {"X_Forwarded_For": "192.0.2.7"}),
        ("127.0.0.1", {"Forwarded": "for=192.0.2.7"}),
        ("127.0.0.1", {"X-Forwarded-Proto": "https"}),
        ("127.0.0.1", {"CF-Connecting-IP": "192.0.2.7"}),
        ("127.0.0.1", {"Host": "models.example.net"}),
        ("127.0.0.1", {"Host": "192.0.2.1:8000"}),
        ("127.0.0.1", {"Host": "localhost.example.net"}),
    ],
)
async def test_an_open_gateway_serves_nobody_else(
    host: Host, upstream: Upstream, settings: Any, client: str, headers: dict[str, str]
) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    assert (await ask(client=client, **headers).end()).status == 401


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "[::1]:8000"])
async def test_an_open_gateway_serves_loopback_names(
    host: Host, upstream: Upstream, name: str
) -> None:
    assert (await ask(Host=name).end()).status == 200


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("SECURE_PROXY_SSL_HEADER", ("HTTP_X_FORWARDED_PROTO", "https")),
        ("SWITCHER_TRUSTED_PROXIES", ["127.0.0.1"]),
    ],
)
async def test_behind_a_proxy_loopback_proves_nothing(
    host: Host, upstream: Upstream, settings: Any, setting: str, value: object
) -> None:
    setattr(settings, setting, value)
    assert (await ask().end()).status == 401


async def test_a_gateway_that_was_open_before_says_what_to_set(
    host: Host, upstream: Upstream, settings: Any
) -> None:
    settings.SWITCHER_OPEN_GATEWAY = False
    settings.SWITCHER_OPEN_GATEWAY_UNCONFIRMED = True
    reply = await ask().end()
    assert reply.status == 401
    assert "SWITCHER_OPEN_GATEWAY=no-proxy" in reply.json()["error"]["message"]
    assert not upstream.received


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Sec_Fetch_Site": "cross-site"}, {"Origin": "null"}],
)
async def test_cross_site_requests_are_refused(
    host: Host, upstream: Upstream, headers: dict[str, str]
) -> None:
    reply = await ask(**headers).end()
    assert reply.status == 403
    assert not upstream.received


async def test_requests_from_our_own_origin_are_served(host: Host, upstream: Upstream) -> None:
    headers = {"Origin": "http://localhost:8000", "Sec_Fetch_Site": "same-origin"}
    assert (await ask(**headers).end()).status == 200


@pytest.mark.parametrize("name", ["evil.example:8000", "evil.example", "", "localhost@evil"])
async def test_a_server_name_that_is_not_ours_is_refused(
    host: Host, upstream: Upstream, name: str
) -> None:
    """DNS rebinding: a page of evil.example whose name resolves to 127.0.0.1."""
    reply = await ask(Host=name, Origin=f"http://{name}", Sec_Fetch_Site="same-origin").end()
    assert reply.status == 400
    assert not upstream.received


@pytest.mark.parametrize("allowed", ["*", "gpu_gateway", ".internal"])
async def test_a_name_with_underscores_is_served_where_it_is_allowed(
    host: Host, upstream: Upstream, settings: Any, allowed: str
) -> None:
    settings.ALLOWED_HOSTS = [allowed]
    settings.SWITCHER_OPEN_GATEWAY = False
    name = "gpu_gateway.internal" if allowed == ".internal" else "gpu_gateway:8000"
    assert (await ask(Host=name).end()).status == 401
    settings.ALLOWED_HOSTS = ["other"]
    assert (await ask(Host=name).end()).status == 400


async def test_a_request_of_switchboard_itself_is_not_forwarded(
    host: Host, upstream: Upstream
) -> None:
    """A host's address may lead back to the gateway, through any proxy and by any name."""
    assert (await ask().end()).status == 200
    via = upstream.received[-1][2]["Via"]
    reply = await ask(Via=f"1.1 nginx, {via}").end()
    assert reply.status == 508
    assert len(upstream.received) == 1
