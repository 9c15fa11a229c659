"""The gateway: OpenAI's, Anthropic's and Ollama's APIs, answered by a host's models.

This is a bare ASGI application, not a Django view: with 64 clients that each receive a chunk per
millisecond, a view handled less than half as many requests, and each took a quarter of a second
longer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from switcher.gateway import body, cors, form, route_cache
from switcher.gateway.addresses import right_address, style_of
from switcher.gateway.anthropic_response import AnthropicResponse
from switcher.gateway.anthropic_tokens import send_token_count
from switcher.gateway.auth import authenticate, check_no_loop, check_origin
from switcher.gateway.body import ParsedRequest
from switcher.gateway.content_encoding import unsupported
from switcher.gateway.disconnects import ClientDisconnected, run_while_connected
from switcher.gateway.endpoints import (
    COUNT_TOKENS_PATH,
    LIST_PATHS,
    MANAGE_METHODS,
    ME_PATH,
    MODEL_ENDPOINTS,
    ONE_MODEL_PREFIX,
    SHOW_PATH,
    ApiStyle,
    is_blob_path,
)
from switcher.gateway.errors import GatewayError
from switcher.gateway.form import FORM_TYPE, ParsedForm
from switcher.gateway.forward import forward
from switcher.gateway.host_changes import relay_change
from switcher.gateway.meter import RequestUsage
from switcher.gateway.model_lists import send_list, send_show
from switcher.gateway.proxy_request import ProxyRequest
from switcher.gateway.request_head import RequestHead
from switcher.gateway.response import TEXT_TYPE, Receive, ResponseWriter, Send, to_json
from switcher.gateway.routing import STALE_HEADER, find_route, no_database
from switcher.queries.database import outage_of
from switcher.queries.gates import Route
from switcher.queries.keys import KeyFacts

log = logging.getLogger(__name__)

NO_UNLOAD = (
    "Clients of the gateway share the model, so none of them unloads it. Unload it on the host's "
    "page, by POST /ollama/models/unload or with manage.py unload."
)

Handler = Callable[[RequestHead, Receive, ResponseWriter], Awaitable[None]]


async def app(scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
    """Serve one HTTP request."""
    head = RequestHead.of(scope)
    style = _style_of(head)
    writer = AnthropicResponse if style is ApiStyle.ANTHROPIC else ResponseWriter
    response = writer(send, cors.headers_for(head))
    try:
        await _serve(head, receive, response)
    except ClientDisconnected:
        return
    except GatewayError as error:
        await response.send_error(error, style)
    except Exception as exc:
        reason = outage_of(exc)
        if reason and not response.started:
            log.warning("The gateway refused %s: %s", head.path, reason)
            await response.send_error(no_database(reason), style)
            return
        log.exception("The gateway failed on %s.", head.path)
        if response.started:
            raise
        failure = GatewayError(500, "internal", "Switchboard failed. See its log.")
        await response.send_error(failure, style)


def _style_of(head: RequestHead) -> ApiStyle:
    """Return the style of the client's API: Anthropic's and OpenAI's share some addresses."""
    style = style_of(head.path)
    is_anthropic = style is ApiStyle.OPENAI and "anthropic-version" in head.headers
    return ApiStyle.ANTHROPIC if is_anthropic else style


async def _serve(head: RequestHead, receive: Receive, response: ResponseWriter) -> None:
    check_no_loop(head)
    check_origin(head)
    if cors.is_preflight(head):
        await cors.answer_preflight(head, response)
        return
    handler = _handler(head.path)
    if handler is None:
        raise _nothing_at(head.path)
    await handler(head, receive, response)


def _nothing_at(path: str) -> GatewayError:
    text, right = f"There is nothing at {path}.", right_address(path)
    if right:
        text = f"{text} The right address is {right}: check the base URL of the client."
    return GatewayError(404, "unknown_path", text)


def _handler(path: str) -> Handler | None:
    if path in MODEL_ENDPOINTS:
        return _ask_model
    if path in LIST_PATHS or path.startswith(ONE_MODEL_PREFIX):
        return _list_models
    if path == COUNT_TOKENS_PATH:
        return _count_tokens
    if path == SHOW_PATH:
        return _show_model
    if path == "/":
        return _answer_probe
    if path == ME_PATH:
        return _hide_account
    if path in MANAGE_METHODS or is_blob_path(path):
        return _change_host
    return None


async def _ask_model(head: RequestHead, receive: Receive, response: ResponseWriter) -> None:
    _check_method(head, "POST")
    key = await authenticate(head)
    endpoint = MODEL_ENDPOINTS[head.path]
    parsed = await (_read(head, receive) if endpoint.is_common else _read_any(head, receive))
    if isinstance(parsed, ParsedRequest) and endpoint.unloads and parsed.asks_to_unload():
        raise GatewayError(403, "not_allowed", NO_UNLOAD)
    with _metered(key) as usage:
        request = ProxyRequest(head.ollama_host, endpoint, parsed, response, usage)
        await run_while_connected(receive, forward(request))


async def _count_tokens(head: RequestHead, receive: Receive, response: ResponseWriter) -> None:
    _check_method(head, "POST")
    key = await authenticate(head)
    parsed = await _read(head, receive)
    route = await _find_route(head, key, response)
    with _metered(key):
        await send_token_count(route, parsed, response, key)


async def _list_models(head: RequestHead, receive: Receive, response: ResponseWriter) -> None:
    _check_method(head, "GET", "HEAD")
    key = await authenticate(head)
    route = await _find_route(head, key, response)
    with _metered(key):
        await run_while_connected(
            receive, send_list(route, head.path, response, key, _style_of(head))
        )


async def _answer_probe(head: RequestHead, receive: Receive, response: ResponseWriter) -> None:
    _check_method(head, "GET", "HEAD")
    await response.send_whole(200, b"Ollama is running", content_type=TEXT_TYPE)


async def _hide_account(head: RequestHead, receive: Receive, response: ResponseWriter) -> None:
    """Answer like a server to which nobody has signed in: the account at ollama.com belongs to the
    host."""
    _check_method(head, "POST")
    await authenticate(head)
    await response.send_whole(401, to_json({"error": "unauthorized"}))


async def _show_model(head: RequestHead, receive: Receive, response: ResponseWriter) -> None:
    _check_method(head, "POST")
    key = await authenticate(head)
    parsed = await _read(head, receive)
    route = await _find_route(head, key, response)
    with _metered(key):
        await run_while_connected(receive, send_show(route, parsed, response, key))


async def _change_host(head: RequestHead, receive: Receive, response: ResponseWriter) -> None:
    method = MANAGE_METHODS.get(head.path)
    _check_method(head, *([method] if method else ["POST", "HEAD"]))
    key = await authenticate(head, manage=True)
    if head.content_encoding:
        raise unsupported("Send it unencoded: bodies of this address are passed on as they are.")
    route = await _find_route(head, key, response)
    with _metered(key):
        await relay_change(route, head, receive, response)


async def _find_route(head: RequestHead, key: KeyFacts | None, response: ResponseWriter) -> Route:
    route = await find_route(head.ollama_host, key)
    if route.stale:
        response.add_header(STALE_HEADER)
    return route


async def _read(head: RequestHead, receive: Receive) -> ParsedRequest:
    return body.parse(await body.read(head, receive))


async def _read_any(head: RequestHead, receive: Receive) -> ParsedRequest | ParsedForm:
    content_type = head.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != FORM_TYPE:
        return await _read(head, receive)
    return form.parse(await body.read(head, receive), content_type)


@contextmanager
def _metered(key: KeyFacts | None) -> Iterator[RequestUsage]:
    """Enforce the key's limits on a request and count it. Raises GatewayError 429.

    A disconnecting client is not counted as an error.
    """
    usage, meter = RequestUsage(key), route_cache.current().meter
    meter.enter(key, asyncio.get_running_loop().time())
    try:
        yield usage
    except ClientDisconnected:
        raise
    except Exception:
        usage.failed = True
        raise
    finally:
        meter.leave(usage)


def _check_method(head: RequestHead, *methods: str) -> None:
    if head.method not in methods:
        text = f"This address accepts {' or '.join(methods)}."
        headers = [("allow", ", ".join(methods))]
        raise GatewayError(405, "method_not_allowed", text, headers=headers)
