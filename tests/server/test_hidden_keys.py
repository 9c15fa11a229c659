"""No log shows a key, although some clients can only send it in the address."""

from __future__ import annotations

import logging

import pytest

import project.gateway  # noqa: F401 - adds the filter to uvicorn's log
from project.hidden_keys import HideKeys, hidden
from project.settings import LOGGING

KEY = "sb-" + "aB3_-" * 8


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"GET /v1/models?key={KEY} 200", "GET /v1/models?key=… 200"),
        ("/v1/models?host=a&key=mistyped&b=c", "/v1/models?host=a&key=…&b=c"),
        (f"Bearer {KEY}", "Bearer sb-…"),
        (f"POST /key/{KEY}/api/chat 200", "POST /key/…/api/chat 200"),
        ("GET /base/key/mistyped/v1/models?x=1", "GET /base/key/…/v1/models?x=1"),
        ("no key=here", "no key=here"),
    ],
)
def test_a_key_is_hidden_in_any_text(text: str, shown: str) -> None:
    assert hidden(text) == shown


def test_the_log_of_uvicorn_shows_no_key(caplog: pytest.LogCaptureFixture) -> None:
    path = f"/v1/models?key={KEY}"
    with caplog.at_level("INFO", "uvicorn.access"):
        logging.getLogger("uvicorn.access").info(
            '%s - "%s %s HTTP/%s" %d', "192.0.2.7:1", "GET", path, "1.1", 200
        )
    assert caplog.messages == ['192.0.2.7:1 - "GET /v1/models?key=… HTTP/1.1" 200']


def test_every_handler_of_ours_hides_keys() -> None:
    assert LOGGING["filters"]["hide_keys"]["()"] == f"{HideKeys.__module__}.HideKeys"
    assert all("hide_keys" in handler["filters"] for handler in LOGGING["handlers"].values())
