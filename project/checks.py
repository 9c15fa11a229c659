"""Checks of the settings that Django runs before each command, and so before the server starts."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Tags, register
from django.core.checks import Warning as CheckWarning


@register(Tags.security)
def check_open_gateway(**_: Any) -> list[CheckMessage]:
    """Warn if the gateway was meant to be open, but the setting does not say that it is safe."""
    if not settings.SWITCHER_OPEN_GATEWAY_UNCONFIRMED:
        return []
    return [
        CheckWarning(
            "SWITCHER_OPEN_GATEWAY no longer opens the gateway by being on: it stays closed.",
            hint="A reverse proxy on this machine would open it to everyone. If there is none, set "
            "SWITCHER_OPEN_GATEWAY=no-proxy; else let clients send a key.",
            id="switchboard.W001",
        )
    ]
