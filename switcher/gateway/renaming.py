"""Shows clients a model's own name where the host was asked by the name of its copy.

A host repeats the name that it was asked for in each part of a reply (fact 20). In the JSON of a
reply only the whole string is replaced: the name in the middle of a text was written by the model.
"""

from __future__ import annotations

import json


class ModelRenamer:
    """Replaces the name `sent` to the host by the one `shown` to the client, in one reply."""

    def __init__(self, sent: str, shown: str) -> None:
        self._sent, self._shown = sent, shown
        self._string = json.dumps(sent).encode()
        self._shown_string = json.dumps(shown).encode()
        self._held = b""

    def in_text(self, text: str) -> str:
        """Return a header's value with the name that is shown."""
        return text.replace(self._sent, self._shown)

    def anywhere(self, body: bytes) -> bytes:
        """Return a body whose texts may mention the name, such as an error."""
        return body.replace(self._sent.encode(), self._shown.encode())

    def in_part(self, part: bytes, more: bool) -> bytes:
        """Return a part of a body. If more parts follow, what may be the beginning of the name is
        held back."""
        part = (self._held + part).replace(self._string, self._shown_string)
        self._held = b""
        at = part.rfind(b'"') if more else -1
        if at >= 0 and len(part) - at < len(self._string) and self._string.startswith(part[at:]):
            part, self._held = part[:at], part[at:]
        return part
