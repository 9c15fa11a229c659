"""The multipart form of a request, such as audio to transcribe: only its model is rewritten."""

from __future__ import annotations

from collections.abc import Mapping
from email.message import Message
from types import MappingProxyType
from typing import Any

from switcher.gateway.errors import GatewayError

FORM_TYPE = "multipart/form-data"
MAX_PARTS = 200


class ParsedForm:
    """A parsed form. `values` are its short text fields; it stands in for a ParsedRequest."""

    def __init__(self, boundary: bytes, parts: list[tuple[str, bytes]], size: int) -> None:
        self.size = size  # in bytes
        self.content_type = f'{FORM_TYPE}; boundary="{boundary.decode("latin-1")}"'
        self._boundary = boundary
        self._parts = parts
        self.values: dict[str, Any] = {}
        for name, part in parts:
            head, _, content = part.partition(b"\r\n\r\n")
            if b"filename" not in head.lower():
                self.values.setdefault(name, content.decode(errors="replace"))

    def streams(self, default: bool) -> bool:
        """Return whether the client wants the reply in parts."""
        return str(self.values.get("stream", default)).lower() == "true"

    def wants_usage(self) -> bool:
        """Return whether the client asked for token counts; forms cannot."""
        return False

    def dropped(self) -> list[str]:
        """Return the names of fields that are not forwarded; no field of a form reloads a model."""
        return []

    def for_model(
        self,
        tag: str,
        runner_options: Mapping[str, Any] = MappingProxyType({}),
        add_usage: bool = False,
    ) -> bytes:
        """Return the form for the model `tag`. All other fields stay as they are.

        The model comes first, as servers read the first one of several.
        """
        model = b'\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + tag.encode()
        parts = [model, *(part for name, part in self._parts if name != "model")]
        delimiter = b"\r\n--" + self._boundary
        written = b"".join(delimiter + part for part in parts)
        return written.removeprefix(b"\r\n") + delimiter + b"--\r\n"


def parse(body: bytes, content_type: str) -> ParsedForm:
    """Parse a form (RFC 7578). Raises GatewayError 400."""
    boundary = _parameter(content_type, "boundary").encode("latin-1", "replace")
    if not 1 <= len(boundary) <= 70:
        raise _invalid("its Content-Type names no boundary")
    _, *parts = (b"\r\n" + body).split(b"\r\n--" + boundary)
    if not parts or not parts[-1].startswith(b"--"):
        raise _invalid("it has no end")
    if len(parts) > MAX_PARTS:
        raise _invalid(f"it has more than {MAX_PARTS} parts")
    return ParsedForm(boundary, [(_name(part), part) for part in parts[:-1]], len(body))


def _name(part: bytes) -> str:
    # Text after a boundary would belong to the part before it (RFC 2046, 5.1.1).
    if not part.startswith(b"\r\n"):
        raise _invalid("its boundary also occurs inside of a part")
    head, _, _ = part[2:].partition(b"\r\n\r\n")
    for line in head.decode("latin-1").split("\r\n"):
        field, _, value = line.partition(":")
        if field.strip().lower() == "content-disposition":
            return _parameter(value, "name")
    raise _invalid("a part has no name")


def _parameter(value: str, name: str) -> str:
    header = Message()
    header["Content-Type"] = value.strip()
    found = header.get_param(name)
    return found if isinstance(found, str) else ""


def _invalid(text: str) -> GatewayError:
    return GatewayError(400, "invalid_form", f"The body is not a form: {text}.")
