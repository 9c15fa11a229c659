"""One request to a model, passed on to its host: once more where that is safe."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from switcher.gateway import answers, pump
from switcher.gateway.answers import Headers, Refusal, Send
from switcher.gateway.body import Wanted
from switcher.gateway.choice import Choice, choose
from switcher.gateway.endpoints import Endpoint, Shape
from switcher.gateway.texts import with_options
from switcher.ollama import relay
from switcher.ollama.errors import BrokeOff, OllamaError, TimedOut, Unreachable
from switcher.ollama.relay import Upstream
from switcher.queries.gates import Route

AGAIN_S = 0.2
# Until the first byte: the host may have to load the model, or others may be before us.
FIRST_S = 300.0


async def pass_on(route: Route, endpoint: Endpoint, wanted: Wanted, send: Send) -> Choice:
    """Answer the request from the model that the policy gives. Raises Refusal.

    A connection that breaks before anything was sent is tried once more: nothing but time was
    spent on it.
    """
    choice = choose(route, wanted.values.get("model"))
    headers = _headers(choice, endpoint, wanted)
    watched = _Watched(send)
    try:
        try:
            await _try(route, choice, endpoint, wanted, watched, headers)
        except (Unreachable, BrokeOff):
            if watched.begun:
                raise
            await asyncio.sleep(AGAIN_S)
            await _try(route, choice, endpoint, wanted, watched, headers)
    except TimedOut as exc:
        raise Refusal(504, "upstream_timed_out", f"{route.host}: {exc.text}") from exc
    except OllamaError as exc:
        raise Refusal(502, "upstream_failed", f"{route.host}: {exc.text}") from exc
    return choice


class _Watched:
    """A `send` that knows whether anything was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun = False

    async def __call__(self, message: answers.Message) -> None:
        self.begun = True
        await self._send(message)


def _headers(choice: Choice, endpoint: Endpoint, wanted: Wanted) -> Headers:
    """What policy did to the request is said in the answer."""
    rows = [("x-switchboard-model", choice.model)]
    dropped = wanted.dropped()
    if endpoint.shape is Shape.OPENAI:  # there `options` mean nothing to the host
        dropped = [name for name in dropped if not name.startswith("options.")]
    if dropped:
        rows.append(("x-switchboard-dropped", ", ".join(dropped)))
    return rows


async def _try(
    route: Route,
    choice: Choice,
    endpoint: Endpoint,
    wanted: Wanted,
    send: Send,
    headers: Headers,
) -> None:
    if endpoint.shape is Shape.OPENAI and choice.spec.runner_options:
        path, body, answer = with_options(endpoint, wanted.values, choice)
        async with _post(route, path, body) as up:
            await pump.translated(up, answer, send, headers)
        return
    runner = choice.spec.runner_options if endpoint.shape is Shape.OLLAMA else None
    async with _post(route, endpoint.path, wanted.for_model(choice.model, runner)) as up:
        await pump.pass_through(up, endpoint, send, headers)


@asynccontextmanager
async def _post(route: Route, path: str, body: bytes) -> AsyncIterator[Upstream]:
    """The host's answer once its head has come, FIRST_S at most. Raises OllamaError."""
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(FIRST_S):
                up = await stack.enter_async_context(relay.ask(route.base_url, "POST", path, body))
        except TimeoutError:
            text = f"The host did not begin to answer for {FIRST_S:.0f} s."
            raise TimedOut(text) from None
        yield up
