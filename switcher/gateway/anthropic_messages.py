"""Translates requests of Anthropic's API to chats of Ollama's own.

Newer servers have `/v1/messages` too, but it is not used (fact 29). There, a stream that fails just
stops, runner options cannot be sent, and a tool of Anthropic's for web searches sends the query to
ollama.com. Older servers lack the address, while all have `/api/chat`. Members are mapped as in
Ollama's own.
https://platform.claude.com/docs/en/api/messages
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from switcher.gateway.errors import GatewayError
from switcher.queries.gates import ModelChoice

_OPTIONS = {
    "max_tokens": "num_predict",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop_sequences": "stop",
}
_MEMBERS = frozenset(_OPTIONS) | {
    *("model", "messages", "system", "stream", "tools", "thinking"),
    *("output_config", "output_format"),
}
_EFFORTS = {effort: effort for effort in ("low", "medium", "high", "max")} | {"xhigh": "high"}
_IGNORED_BLOCKS = frozenset({"redacted_thinking"})  # encrypted: only Anthropic can read them


def to_chat(values: Mapping[str, Any], choice: ModelChoice) -> dict[str, Any]:
    """Return the body for /api/chat. Raises GatewayError 400, naming the unusable member.

    It names no keep-alive, which leaves the switch's in place (fact 13).
    """
    limit = values.get("max_tokens")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        raise _unusable("max_tokens", "must be a positive number")
    chat: dict[str, Any] = {
        "model": choice.model,
        "messages": chat_messages(values),
        "stream": values.get("stream") is True,
        "options": dict(choice.spec.options),
    }
    for name, ollama_name in _OPTIONS.items():
        if values.get(name) is not None:
            chat["options"][ollama_name] = values[name]
    tools = _tools(values)
    if tools:
        chat["tools"] = [_tool(tool) for tool in tools]
    think = _think(values)
    if think is not None:
        chat["think"] = think
    schema = _schema(values)
    if schema is not None:
        chat["format"] = schema
    return chat


def unmapped_members(values: Mapping[str, Any]) -> list[str]:
    """Return the members of a request that have no equivalent, apart from those that are never
    forwarded (ParsedRequest.dropped).

    No server can force a tool to be used, or limit how long a model thinks.
    """
    kept = _MEMBERS | {"keep_alive", "shift", "tool_choice"}
    names = [name for name, value in values.items() if value is not None and name not in kept]
    if _choice_of_tools(values) in {"any", "tool"}:
        names.append("tool_choice")
    thinking = values.get("thinking")
    if isinstance(thinking, dict) and "budget_tokens" in thinking:
        names.append("thinking.budget_tokens")
    names += [f"tools.{tool.get('name')}" for tool in _rows(values, "tools") if _is_foreign(tool)]
    return sorted(names)


def chat_messages(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the system prompt and the messages as Ollama's. Raises GatewayError 400."""
    rows = _rows(values, "messages")
    if not rows:
        raise _unusable("messages", "must be a list of messages")
    system = _text(values.get("system"), "system")
    messages = [{"role": "system", "content": system}] if system else []
    tool_names: dict[str, str] = {}
    for row in rows:
        messages += _messages(row, tool_names)
    return messages


def _messages(row: Mapping[str, Any], tool_names: dict[str, str]) -> list[dict[str, Any]]:
    """Return a message, and one for each result of a tool that it holds.

    A user's results answer calls of the message before; those in an assistant's own message are of
    tools that Anthropic's servers ran.
    """
    role, content = row.get("role"), row.get("content")
    if role not in {"user", "assistant", "system"}:
        raise _unusable("messages", "must have the role user or assistant")
    if isinstance(content, str):
        return [{"role": role, "content": content}]
    if not isinstance(content, list):
        raise _unusable("messages", "must have text or a list of blocks as content")
    message: dict[str, Any] = {"role": role, "content": ""}
    results: list[dict[str, Any]] = []
    for block in content:
        if isinstance(block, dict) and str(block.get("type")).endswith("tool_result"):
            results.append(_tool_result(block, tool_names))
        else:
            _add_block(message, block, tool_names)
    if role == "assistant":
        return [message, *results]
    is_only_results = bool(results) and message == {"role": role, "content": ""}
    return results if is_only_results else [*results, message]


def _add_block(message: dict[str, Any], block: object, tool_names: dict[str, str]) -> None:
    """Add a block of content to a message."""
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(block, dict) or not isinstance(kind, str):
        raise _unusable("messages", "must have blocks with a type as content")
    if kind == "text":
        message["content"] += _string(block, "text")
    elif kind == "image":
        message.setdefault("images", []).append(_image(block))
    elif kind == "document":
        message["content"] += _document(block)
    elif kind == "thinking":
        message["thinking"] = _string(block, "thinking")
    elif kind in {"tool_use", "server_tool_use"}:
        name, arguments = _string(block, "name"), block.get("input")
        tool_names[str(block.get("id"))] = name
        function = {"name": name, "arguments": arguments if isinstance(arguments, dict) else {}}
        call = {"id": str(block.get("id")), "function": function}
        message.setdefault("tool_calls", []).append(call)
    elif kind not in _IGNORED_BLOCKS:
        raise _unusable("messages", f"has a block of the type {kind[:60]!r}")


def _tool_result(block: Mapping[str, Any], tool_names: Mapping[str, str]) -> dict[str, Any]:
    call_id, content = str(block.get("tool_use_id")), block.get("content")
    message: dict[str, Any] = {"role": "tool", "content": ""}
    if content is None or isinstance(content, str):
        message["content"] = content or ""
    elif block.get("type") != "tool_result":
        message["content"] = json.dumps(content, ensure_ascii=False)
    else:
        for part in content if isinstance(content, list) else [content]:
            _add_block(message, part, {})
    message["tool_call_id"] = call_id
    if tool_names.get(call_id):
        message["tool_name"] = tool_names[call_id]
    return message


def _image(block: Mapping[str, Any]) -> str:
    source = block.get("source")
    data = source.get("data") if isinstance(source, dict) else None
    if not isinstance(source, dict) or source.get("type") != "base64" or not isinstance(data, str):
        raise _unusable("messages", "has an image that is not in base64")
    return data


def _document(block: Mapping[str, Any]) -> str:
    source = block.get("source")
    if not isinstance(source, dict) or source.get("type") != "text":
        raise _unusable("messages", "has a document that is not plain text")
    return _string(source, "data")


def _tools(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    if _choice_of_tools(values) == "none":
        return []
    return [tool for tool in _rows(values, "tools") if not _is_foreign(tool)]


def _is_foreign(tool: Mapping[str, Any]) -> bool:
    """Return whether only Anthropic's servers run a tool, or only their models know its schema."""
    return tool.get("type") not in {None, "custom"} and "input_schema" not in tool


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    schema = tool.get("input_schema")
    function = {
        "name": _string(tool, "name", "tools"),
        "description": _string(tool, "description", "tools") if "description" in tool else "",
        "parameters": schema if isinstance(schema, dict) else {"type": "object", "properties": {}},
    }
    return {"type": "function", "function": function}


def _choice_of_tools(values: Mapping[str, Any]) -> str:
    choice = values.get("tool_choice")
    return str(choice.get("type")) if isinstance(choice, dict) else ""


def _think(values: Mapping[str, Any]) -> bool | str | None:
    """Return whether and how hard to think; None leaves it to the model.

    Ollama's models think unless told otherwise, Anthropic's only if they are asked to: a client
    that did not ask reads the first block as the answer.
    """
    thinking, config = values.get("thinking"), values.get("output_config")
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    effort = config.get("effort") if isinstance(config, dict) else None
    if kind == "disabled":
        return False
    if isinstance(effort, str) and effort in _EFFORTS:
        return _EFFORTS[effort]
    return None if kind == "adaptive" else kind == "enabled"


def _schema(values: Mapping[str, Any]) -> Any:
    config = values.get("output_config")
    wanted = config.get("format") if isinstance(config, dict) else None
    wanted = wanted or values.get("output_format")  # its name in earlier versions
    is_schema = isinstance(wanted, dict) and wanted.get("type") == "json_schema"
    return wanted.get("schema") if is_schema and isinstance(wanted, dict) else None


def _text(value: object, param: str) -> str:
    """Return a text that may also be a list of text blocks."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list) and all(isinstance(block, dict) for block in value):
        return "".join(_string(block, "text", param) for block in value)
    raise _unusable(param, "must be text or a list of text blocks")


def _rows(values: Mapping[str, Any], param: str) -> list[dict[str, Any]]:
    rows = values.get(param) or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _unusable(param, "must be a list of objects")
    return rows


def _string(row: Mapping[str, Any], name: str, param: str = "messages") -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise _unusable(param, f"has a {row.get('type') or 'tool'} whose {name!r} is not text")
    return value


def _unusable(param: str, text: str) -> GatewayError:
    return GatewayError(400, "invalid_request", f"{param!r} {text}.", param)
