"""The client's address, believed only from trusted proxies."""

from __future__ import annotations

from typing import Any

import pytest

from switcher.access import client_address

PROXIES = ["10.0.0.0/8", "127.0.0.1", "2001:db8:ffff::/48"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "found"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        # Anybody can send the header; only what a trusted proxy appended to it counts.
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),
        ("127.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "203.0.113.66, 198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "203.0.113.66, 198.51.100.7, 10.1.2.3", "198.51.100.7"),
        ("127.0.0.1", "10.9.9.9, 10.1.2.3", "10.9.9.9"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", " , ", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.7, unknown", "127.0.0.1"),
        ("127.0.0.1", "<script>", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.7:41234", "198.51.100.7"),
        ("127.0.0.1", "[2001:db8::5]:41234", "2001:db8::5"),
        ("127.0.0.1", "[2001:db8::5]", "2001:db8::5"),
        ("2001:db8:ffff::1", "2001:DB8:0::5", "2001:db8::5"),
        ("::ffff:127.0.0.1", "::ffff:198.51.100.7", "198.51.100.7"),
        ("fe80::1%eth0", "", "fe80::1"),
        ("", "198.51.100.7", None),
        ("/run/socket", "", None),
    ],
)
def test_the_client_is_the_nearest_address_that_is_no_trusted_proxy(
    peer: str, forwarded: str, found: str | None, settings: Any
) -> None:
    settings.SWITCHER_TRUSTED_PROXIES = PROXIES
    assert client_address(peer, forwarded) == found


def test_without_trusted_proxies_the_header_is_ignored(settings: Any) -> None:
    settings.SWITCHER_TRUSTED_PROXIES = []
    assert client_address("127.0.0.1", "198.51.100.7") == "127.0.0.1"
