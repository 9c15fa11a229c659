"""Recognises prompts that a host has cut because they were longer than the context that the model
is loaded with. No reply of Ollama says so (fact 30); only the number of tokens shows it.
"""

from __future__ import annotations

from typing import Any

from switcher.gateway.proxy_request import ProxyRequest

CUT_HEADER = "x-switchboard-prompt-cut"
# A prompt that leaves less room than this loses its beginning as soon as the reply goes on.
EDGE_TOKENS = 8
# Of text in any language, a token has fewer. A chat that has more text than that for its context,
# and yet fits into it, came without its oldest messages.
CHARACTERS_PER_TOKEN = 6
DEFAULT_NUM_KEEP = 4
# Since this version, a prompt that is cut is cut by half of the context.
HALVING_VERSION = (0, 31)
_TEXTS = ("system", "messages", "prompt", "input")
_NO_TEXT = {"data", "image_url", "images"}


def note_cut_prompt(request: ProxyRequest) -> None:
    """Count the prompt of a request as cut if the tokens of its reply show it; name the context in
    a header if the reply has not started."""
    if _is_cut(request):
        request.usage.cut_prompt = True
        request.response.add_header((CUT_HEADER, str(request.loaded.context)))


def _is_cut(request: ProxyRequest) -> bool:
    tokens, context = request.usage.tokens_in, request.loaded.context
    values = getattr(request.body, "values", {})
    if not tokens or not context:
        return False
    if request.endpoint.task == "embed":  # the tokens of all inputs are added up
        inputs = values.get("input")
        is_one = not isinstance(inputs, list) or len(inputs) == 1
        return is_one and tokens >= context
    if tokens >= context - EDGE_TOKENS or tokens in _halves(request):
        return True
    limit = context * CHARACTERS_PER_TOKEN
    return request.body.size > limit and _characters([values.get(n) for n in _TEXTS]) > limit


def _halves(request: ProxyRequest) -> set[int]:
    """Return how many tokens newer servers leave of a prompt, with and without a first token that
    some models add."""
    version = request.loaded.version
    if version and version < HALVING_VERSION:
        return set()
    context, values = request.loaded.context, getattr(request.body, "values", {})
    options = values.get("options")
    keep = options.get("num_keep") if isinstance(options, dict) else None
    first = keep if isinstance(keep, int) and keep >= 0 else DEFAULT_NUM_KEEP
    return {context - max((context - kept) // 2, 1) for kept in (first, first + 1)}


def _characters(value: Any) -> int:
    """Return the length of all texts in a JSON value, without images and sounds."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_characters, value))
    if isinstance(value, dict):
        return sum(_characters(v) for name, v in value.items() if name not in _NO_TEXT)
    return 0
