"""Every entry point records the same client address behind a proxy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from switcher.gateway.request_head import RequestHead
from switcher.models import AuditEntry
from tests import make
from tests.panel.test_django_admin import PROFILE

pytestmark = pytest.mark.django_db

PROXY, SOMEBODY = "192.0.2.200", "192.0.2.66"
FORWARDED = {"X-Forwarded-For": "203.0.113.1, 198.51.100.7"}


@pytest.fixture(autouse=True)
def one_proxy(settings: Any) -> None:
    settings.SWITCHER_TRUSTED_PROXIES = [PROXY]


def by_page(admin: Client, peer: str) -> None:
    values = {"name": "phi", "tag": "phi4:14b", "keep_alive": "30m", "options": "{}"}
    admin.post("/profiles/add", values, headers=FORWARDED, REMOTE_ADDR=peer)


def by_django_admin(admin: Client, peer: str) -> None:
    path = "/admin/switcher/modelprofile/add/"
    admin.post(path, PROFILE, headers=FORWARDED, REMOTE_ADDR=peer)


def by_people(admin: Client, peer: str) -> None:
    admin.post("/admin/auth/group/add/", {"name": "x"}, headers=FORWARDED, REMOTE_ADDR=peer)


def by_logging_in(admin: Client, peer: str) -> None:
    values = {"username": "nobody", "password": "x"}
    Client().post("/login/", values, headers=FORWARDED, REMOTE_ADDR=peer)


def by_api(admin: Client, peer: str) -> None:
    make.host(active_tag="qwen2.5:7b")
    AuditEntry.objects.all().delete()
    body = '{"model": "qwen2.5:14b", "wait": false}'
    admin.post(
        "/ollama/models/switch", body, "application/json", headers=FORWARDED, REMOTE_ADDR=peer
    )


ENTRANCES = [by_page, by_django_admin, by_people, by_logging_in, by_api]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("act", ENTRANCES, ids=lambda act: act.__name__)
@pytest.mark.parametrize(("peer", "address"), [(PROXY, "198.51.100.7"), (SOMEBODY, SOMEBODY)])
def test_only_a_trusted_proxy_is_believed(
    act: Callable[[Client, str], None], peer: str, address: str, admin: Client
) -> None:
    act(admin, peer)
    origin = AuditEntry.objects.latest("seq").origin
    assert origin is not None
    assert origin.ip == address


def test_the_gateway_reads_the_address_in_the_same_way() -> None:
    scope = {
        "method": "POST",
        "path": "/v1/chat/completions",
        "client": (PROXY, 4711),
        "headers": [(b"X-Forwarded-For", b"203.0.113.1"), (b"x-forwarded-for", b"198.51.100.7")],
    }
    assert RequestHead.of(scope).client_address == "198.51.100.7"
    assert RequestHead.of(scope | {"client": (SOMEBODY, 1)}).client_address == SOMEBODY
    assert RequestHead.of(scope | {"client": None}).client_address is None
