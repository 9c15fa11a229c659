"""How an Ollama server is reached: its address, and what a proxy in front of it asks for. Pure."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from switcher.domain.errors import BadRequest

# Sent with each request (RFC 9110, 7.6.3): a gateway that gets it back is its own host.
VIA = "1.1 switchboard"
MAX_HEADERS, MAX_TEXT = 20, 4000
# No blank around it: some HTTP clients send what others refuse.
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", re.ASCII)
# Switchboard sets these itself: others would garble the message or its framing.
_OWN_HEADERS = frozenset(
    {"accept-encoding", "authorization", "connection", "content-encoding", "content-length",
     "content-type", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "via"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Server:
    """How a host's server is reached. The credentials are encrypted; only `switcher.ollama` opens
    them. With a `ca_certificate` (PEM) only what it has signed is trusted."""

    base_url: str
    sealed_credentials: str = field(default="", repr=False)
    ca_certificate: str = ""
    verify_tls: bool = True

    @classmethod
    def at(cls, server: Server | str) -> Server:
        """Return a server; one without credentials if only its address is given."""
        return server if isinstance(server, Server) else cls(server)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a proxy in front of a server asks for. It must appear in no log and no page.

    `client_certificate` is PEM, with the certificate and its unencrypted key.
    """

    bearer_token: str = field(default="", repr=False)
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    client_certificate: str = field(default="", repr=False)

    def checked(self) -> Credentials:
        """Return them if they can be sent. Raises BadRequest, which repeats no secret."""
        if self.bearer_token and (self.user or self.password):
            text = "Give a bearer token or a user and a password, not both."
            raise BadRequest(text, "bearer_token")
        if not re.fullmatch(r"[\x21-\x7e]*", self.bearer_token):
            raise BadRequest("A bearer token is printable ASCII without spaces.", "bearer_token")
        if ":" in self.user or not (self.user.isprintable() and self.password.isprintable()):
            raise BadRequest("A user has no colon, and both are printable text.", "user")
        if self.password and not self.user:
            raise BadRequest("A password needs a user.", "user")
        if len(self.headers) > MAX_HEADERS:
            raise BadRequest(f"At most {MAX_HEADERS} headers are sent.", "headers")
        for name, value in self.headers:
            _check_header(name, value)
        return self

    def updated(self, new: Credentials) -> Credentials:
        """Return these with what `new` has. A token takes the place of a user, and vice versa."""
        given: dict[str, Any] = {name: value for name, value in asdict(new).items() if value}
        if new.bearer_token:
            given |= {"user": "", "password": ""}
        elif new.user:
            given["bearer_token"] = ""
        return replace(self, **given)

    def kinds(self) -> list[str]:
        """Return what there is, in words without secrets."""
        found = ["bearer token"] if self.bearer_token else []
        found += ["user and password"] if self.user else []
        found += [f"header {name}" for name, _ in self.headers]
        return found + (["client certificate"] if self.client_certificate else [])

    def http_headers(self) -> dict[str, str]:
        """Return the headers of each request."""
        found = dict(self.headers)
        if self.bearer_token:
            found["Authorization"] = f"Bearer {self.bearer_token}"
        elif self.user:
            pair = b64encode(f"{self.user}:{self.password}".encode()).decode()
            found["Authorization"] = f"Basic {pair}"
        return found

    def to_text(self) -> str:
        """Return the text that is encrypted; empty if there is nothing."""
        values = asdict(self)
        return json.dumps(values) if any(values.values()) else ""

    @classmethod
    def from_text(cls, text: str) -> Credentials:
        return cls.from_json(json.loads(text)) if text else cls()

    @classmethod
    def from_json(cls, values: object) -> Credentials:
        """Return credentials from a JSON object; `headers` may be an object too. Raises BadRequest,
        which repeats no secret."""
        names = cls.__dataclass_fields__.keys()
        if not isinstance(values, dict) or not values.keys() <= names:
            raise BadRequest(f"Credentials are a JSON object with some of {', '.join(names)}.")
        headers = values.get("headers") or {}
        try:
            pairs = tuple((str(n), str(v)) for n, v in dict(headers).items())
        except (TypeError, ValueError):
            raise BadRequest("Headers are an object of names and values.", "headers") from None
        texts = {name: value for name, value in values.items() if name != "headers"}
        if not all(isinstance(v, str) and len(v) <= 100_000 for v in texts.values()):
            raise BadRequest("All members of credentials but the headers are texts.")
        return cls(**texts, headers=pairs)


def parse_headers(text: str) -> tuple[tuple[str, str], ...]:
    """Read `Name: value` lines. Raises BadRequest, which repeats no secret."""
    found = []
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if line.strip():
            if not colon:
                raise BadRequest("Write each header as Name: value, on a line.", "headers")
            found.append((name.strip(), value.strip()))
    return tuple(found)


def _check_header(name: str, value: str) -> None:
    if not _HEADER_NAME.fullmatch(name) or name.lower() in _OWN_HEADERS:
        raise BadRequest("One of the headers cannot be set by its name.", "headers")
    if not value or len(value) > MAX_TEXT or not _HEADER_VALUE.fullmatch(value):
        raise BadRequest(f"The value of header {name} is not printable ASCII.", "headers")
