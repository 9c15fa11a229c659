"""`dumpdata` reads every table."""

from __future__ import annotations

import io
import json

import pytest
from django.core.management import call_command

from switcher.domain.drift import Kind
from switcher.domain.servers import Credentials
from switcher.records.host_access import set_access
from switcher.records.keys import NewKey, make_key
from tests import make

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.both_databases]


def test_all_rows_can_be_dumped(proofs: object) -> None:
    host, profile = make.host(), make.profile()
    make_key(NewKey("bot", hosts=(host.name,), profiles=(profile.name,)), make.ANNA)
    make.ended_switch(host)
    make.drift(host, Kind.EVICTED, "mid-a")
    set_access(host.pk, make.ANNA, add=Credentials(bearer_token="tok-s3cret"))
    out = io.StringIO()
    call_command("dumpdata", stdout=out)
    assert "s3cret" not in out.getvalue()
    kinds = {row["model"] for row in json.loads(out.getvalue())}
    assert {"switcher.host", "switcher.ledgerrow", "switcher.auditentry"} <= kinds
