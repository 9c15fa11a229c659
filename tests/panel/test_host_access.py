"""Credentials and certificates of a host: written on a page or by a command, and shown nowhere."""

from __future__ import annotations

import io
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from switcher.domain.observed import Observation
from switcher.domain.servers import Credentials, Server
from switcher.models import AuditEntry, Host
from switcher.ollama.sealing import unseal
from switcher.records import config
from switcher.records.host_access import set_access
from tests import make
from tests.commands.conftest import run
from tests.make import ANNA
from tests.ollama.certificates import Authority
from tests.panel.test_board import text_of
from tests.records.conftest import bodies

pytestmark = pytest.mark.django_db(transaction=True)

URL = "/hosts/north-1/access"
SECRETS = {
    "user": "anna-s3cret",
    "password": " p s3cret ",
    "headers": "X-Api-Key: key-s3cret\r\nX-Tenant: ten-s3cret",
}


@pytest.fixture
def host(transactional_db: None) -> Host:
    return make.host(name="north-1")


def stored() -> Credentials:
    return unseal(Host.objects.get(name="north-1").sealed_credentials)


def everything() -> str:
    """Return all that is in the database."""
    with connection.cursor() as cursor:
        names = connection.introspection.table_names(cursor)
        rows = []
        for name in names:
            cursor.execute(f'SELECT * FROM "{name}"')
            rows += cursor.fetchall()
    return repr(rows)


def test_credentials_are_saved_encrypted_and_shown_nowhere(
    host: Host, admin: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    assert admin.post(URL, SECRETS).status_code == 302
    assert stored().http_headers()["X-Api-Key"] == "key-s3cret"
    assert stored().password == " p s3cret "
    page = text_of(admin.get(URL))
    assert "user and password, header X-Api-Key, header X-Tenant" in page
    pages = page + "".join(
        text_of(admin.get(path)) for path in ("/hosts/", "/hosts/north-1/", "/audit/")
    )
    assert "s3cret" not in pages + everything() + caplog.text


def test_the_trail_says_what_kinds_there_are(host: Host, admin: Client) -> None:
    admin.post(URL, SECRETS | {"skip_verification": "on"})
    (body,) = bodies(kind="host.access")
    kinds = ["user and password", "header X-Api-Key", "header X-Tenant"]
    assert body["before"] == {"credentials": [], "ca_certificate": [], "verify_tls": True}
    assert body["after"] == {"credentials": kinds, "ca_certificate": [], "verify_tls": False}


def test_what_is_left_empty_stays_as_it_is(host: Host, admin: Client) -> None:
    admin.post(URL, SECRETS)
    admin.post(URL, {"bearer_token": "tok-s3cret"})
    assert stored().kinds() == ["bearer token", "header X-Api-Key", "header X-Tenant"]
    admin.post(URL, {"forget": "on"})
    assert stored() == Credentials()


def test_refused_input_is_not_repeated(host: Host, admin: Client) -> None:
    sent = SECRETS | {"bearer_token": "tok-s3cret", "client_certificate": "cert-s3cret"}
    reply = admin.post(URL, sent)
    assert reply.status_code == 422
    page = text_of(reply)
    assert "not both" in page
    assert "tok-s3cret" not in page
    assert "p s3cret" not in page
    assert "key-s3cret" not in page
    assert stored() == Credentials()


def test_an_unverified_certificate_is_shown_on_the_hosts_page(host: Host, admin: Client) -> None:
    assert "is not verified" not in text_of(admin.get("/hosts/north-1/"))
    admin.post(URL, {"skip_verification": "on"})
    assert "The certificate of north-1 is not verified" in text_of(admin.get("/hosts/north-1/"))
    admin.post(URL, {})
    assert "is not verified" not in text_of(admin.get("/hosts/north-1/"))


def test_another_address_does_not_get_the_credentials_of_the_old_one(host: Host) -> None:
    set_access(host.pk, ANNA, add=Credentials(bearer_token="tok-s3cret"), verify_tls=False)
    config.put_host({"keep_alive": "2h"}, ANNA, host.pk)
    assert stored().bearer_token
    config.put_host({"base_url": "http://elsewhere.test"}, ANNA, host.pk)
    assert stored() == Credentials()
    assert Host.objects.get().verify_tls
    assert AuditEntry.objects.filter(kind="host.access").count() == 2


def test_only_admins_may_open_it(host: Host, operator: Client) -> None:
    assert operator.get(URL).status_code == 403
    assert operator.post(URL, SECRETS).status_code == 403
    assert stored() == Credentials()


def test_a_command_reads_credentials_from_standard_input(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"bearer_token": "tok-s3cret", "headers": {"X-A": "key-s3cret"}}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(values)))
    ca = tmp_path / "ca.pem"
    ca.write_text(Authority("own CA").pem)
    ran = run("hosts", "access", "north-1", "--stdin", "--ca-file", str(ca), "--no-verify")
    assert ran.code == 0, ran.err
    assert ran.out == (
        "Credentials: bearer token, header X-A.\nThe server's certificate is not verified.\n"
    )
    row = Host.objects.get()
    assert row.ca_certificate.startswith("-----BEGIN CERTIFICATE")
    assert run("hosts", "access", "north-1", "--verify", "--forget").out == "Credentials: none.\n"
    assert Host.objects.get().verify_tls
    monkeypatch.setattr("sys.stdin", io.StringIO("tok-s3cret"))
    refused = run("hosts", "access", "north-1", "--stdin")
    assert refused.code == 1
    assert "s3cret" not in refused.err
    assert run("hosts", "access", "north-1", "--ca-file", "/nowhere").code == 1


def test_a_check_of_a_hosts_address_uses_its_credentials(
    host: Host, admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Server] = []
    monkeypatch.setattr(
        "switcher.panel.views.hosts.Client", lambda server: Silent(asked, Server.at(server))
    )
    set_access(host.pk, ANNA, add=Credentials(bearer_token="tok-s3cret"))
    for address in (host.base_url, "http://elsewhere.test:11434"):
        admin.post("/hosts/probe", {"base_url": address}, headers={"HX-Request": "true"})
    assert [bool(server.sealed_credentials) for server in asked] == [True, False]


class Silent:
    """A client of a server that does not answer; `asked` lists the servers."""

    def __init__(self, asked: list[Server], server: Server) -> None:
        asked.append(server)

    def observe(self, now: datetime) -> Observation:
        return Observation(now, error="silent")

    def close(self) -> None: ...


@pytest.mark.parametrize("key_first", [True, False])
def test_a_private_key_beside_a_ca_is_refused_and_stored_nowhere(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key_first: bool
) -> None:
    parts = [
        Authority("own CA").pem,
        "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----",
    ]
    ca = tmp_path / "ca.pem"
    ca.write_text("\n".join(reversed(parts) if key_first else parts))
    ran = run("hosts", "access", "north-1", "--ca-file", str(ca))
    assert ran.code == 1
    assert "no private key" in ran.err
    assert Host.objects.get().ca_certificate == ""
    assert not AuditEntry.objects.filter(kind="host.access").exists()


def test_only_certificates_of_a_ca_file_are_kept_and_the_trail_has_their_fingerprints(
    host: Host, tmp_path: Path
) -> None:
    pem = Authority("own CA").pem.strip()
    ca = tmp_path / "ca.pem"
    ca.write_text(f"subject=own CA, s3cret\n{pem}\n")
    assert run("hosts", "access", "north-1", "--ca-file", str(ca)).code == 0
    assert Host.objects.get().ca_certificate == pem
    entry = AuditEntry.objects.get(kind="host.access")
    (fingerprint,) = entry.facts["after"]["ca_certificate"]
    assert re.fullmatch("[0-9a-f]{64}", fingerprint)
