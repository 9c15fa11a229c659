"""What aiohttp's errors mean for a call to an Ollama server."""

from __future__ import annotations

import aiohttp

from switcher.ollama.errors import BadAnswer, BrokeOff, OllamaError, Unreachable

CONNECT_TIMEOUT_S = 3.0  # the name lookup and TLS included

# What a request raises. ValueError: addresses and names that aiohttp cannot parse.
REQUEST_ERRORS = (aiohttp.ClientError, OSError, ValueError)


def explain(exc: Exception, server: str) -> OllamaError:
    """Return the error to raise for one of REQUEST_ERRORS. Timeouts of reads are the caller's."""
    match exc:
        case aiohttp.ConnectionTimeoutError():
            return Unreachable(f"No connection to {server} within {CONNECT_TIMEOUT_S:.0f} s.")
        case aiohttp.ClientConnectorDNSError():
            return Unreachable(f"The name in {server} is not known.")
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return Unreachable(f"No trusted connection to {server}: look at its certificate.")
        case aiohttp.ClientConnectorError(os_error=ConnectionRefusedError()):
            return Unreachable(f"Connection refused at {server}.")
        case aiohttp.ClientConnectorError():
            return Unreachable(f"No connection to {server}.")
        case aiohttp.ClientPayloadError():
            return BrokeOff(f"The answer of {server} broke off.")
        case aiohttp.ClientResponseError():
            return BadAnswer(f"{server} answered with something that is not HTTP.")
        case ValueError():
            return Unreachable(f"{server or 'Nothing'} is not an address.")
    return Unreachable(f"The connection to {server} broke.")
