"""Looks host names up in daemon threads, so that a dead name server holds up nothing else."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future

from aiohttp.abc import AbstractResolver, ResolveResult

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV

_Query = tuple[str, int, socket.AddressFamily]
_lock = threading.Lock()
# One lookup of a name at a time, however many wait for it: `getaddrinfo` cannot be cancelled. An
# error is a result: one that nobody waits for any more would be logged as never retrieved.
_Result = list[ResolveResult] | Exception
_lookups: dict[_Query, Future[_Result]] = {}


class NameLookup(AbstractResolver):
    """A resolver for aiohttp.

    aiohttp's own one uses the few threads of the loop's executor, which a dead name server would
    occupy, and for which a process waits at its exit.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host. Raises OSError, UnicodeError for an impossible name."""
        lookup = asyncio.wrap_future(_begin((host, port, family)))
        # Not awaited itself: cancelling one request must not end the lookup for the others.
        await asyncio.wait([lookup])
        result = lookup.result()
        if isinstance(result, Exception):
            raise result
        return result

    async def close(self) -> None:
        """Nothing is kept open."""


def _begin(query: _Query) -> Future[_Result]:
    with _lock:
        lookup = _lookups.get(query)
        if lookup is None:
            lookup = _lookups[query] = Future()
            thread = threading.Thread(target=_run, args=(query,), name="name-lookup", daemon=True)
            thread.start()
        return lookup


def _run(query: _Query) -> None:
    result: _Result
    try:
        result = _addresses(query)
    except (OSError, UnicodeError) as exc:
        result = exc
    with _lock:
        lookup = _lookups.pop(query)
    lookup.set_result(result)


def _addresses(query: _Query) -> list[ResolveResult]:
    name, port, family = query
    rows = socket.getaddrinfo(name, port, family, socket.SOCK_STREAM)
    return [
        ResolveResult(
            hostname=name,
            # Also writes the zone of a link-local address, which getaddrinfo leaves out.
            host=socket.getnameinfo(address, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)[0],
            port=int(address[1]),
            family=found_family,
            proto=protocol,
            flags=_NUMERIC,
        )
        for found_family, _, protocol, _, address in rows
    ]
