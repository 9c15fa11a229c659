"""What we ask of an Ollama server. Reference: Ollama's docs/api.md, and the facts named below.

Every answer is checked before use: a server's words are input like any other.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Observation, Resident
from switcher.domain.specs import Spec, WarmUp, wire_keep_alive
from switcher.ollama import calls
from switcher.ollama.errors import (
    BadAnswer,
    ModelMissing,
    NotDone,
    OllamaError,
    Refused,
    ServerBusy,
)

T = TypeVar("T")

QUICK_S = 5.0  # for calls that a healthy server answers within milliseconds
# A server that is replaced closes its connections and is asked then; a proxy before it may not.
VERSION_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """A load that succeeded. `load_s` is the server's own figure, else what was waited."""

    load_s: float


@dataclass(frozen=True, slots=True)
class Warmed:
    """A warm-up that was answered. `tokens_per_s` is 0 for embedding models."""

    tokens: int
    tokens_per_s: float
    seconds: float


class Ollama(Protocol):
    """The port through which a switch touches a host. Each call raises OllamaError kinds."""

    def resident(self, call: calls.Call | None = None) -> tuple[Resident, ...]:
        """What is loaded, freshly read (`/api/ps`)."""
        ...

    def installed(self, call: calls.Call | None = None) -> tuple[Installed, ...]:
        """What is on the host's disk (`/api/tags`)."""
        ...

    def capabilities(self, name: str, call: calls.Call | None = None) -> tuple[str, ...]:
        """What a model can do (`/api/show`): older servers list it nowhere else (fact 16)."""
        ...

    def load(self, spec: Spec, embeds: bool, timeout_s: float, call: calls.Call) -> Loaded:
        """Load, without a prompt where the model allows; blocks until it is there (fact 8)."""
        ...

    def warm(
        self, spec: Spec, warmup: WarmUp, embeds: bool, timeout_s: float, call: calls.Call
    ) -> Warmed:
        """Have one prompt answered: success is `done: true` (fact 10)."""
        ...

    def unload(self, name: str, call: calls.Call | None = None) -> None:
        """Ask for the unload. The answer comes before it happens (fact 1)."""
        ...

    def copy(self, source: str, destination: str, call: calls.Call | None = None) -> None:
        """Point a name at another one's content, whatever it meant before (fact 21). Not atomic:
        who asks for the name just then may get a 500 (fact 26). ModelMissing: no such source."""
        ...

    def delete(self, name: str, call: calls.Call | None = None) -> None:
        """Take a name off the disk; what is loaded stays loaded (fact 24). ModelMissing: it was
        not there."""
        ...

    def close(self) -> None: ...


class Client:
    """The port over HTTP. One for a host and a thread; cheap to make."""

    def __init__(self, base_url: str, session: calls.Session | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self._session = session or calls.Session()
        self._opened = 0  # connections, so far
        self._opened_before: int | None = None  # as many when /api/ps was last answered
        self._heard: dict[str, tuple[bytes, tuple[Any, ...]]] = {}  # by path
        self._version = ""
        self._version_at = float("-inf")
        self._version_opened = 0

    def close(self) -> None:
        self._session.close()

    def resident(self, call: calls.Call | None = None) -> tuple[Resident, ...]:
        return self._rows("/api/ps", self._read("/api/ps", call), _resident)

    def installed(self, call: calls.Call | None = None) -> tuple[Installed, ...]:
        return self._rows("/api/tags", self._read("/api/tags", call), _installed)

    def capabilities(self, name: str, call: calls.Call | None = None) -> tuple[str, ...]:
        answer = self._send("POST", "/api/show", {"model": name}, QUICK_S, call or calls.Call())
        rows = answer.get("capabilities")
        return tuple(str(c) for c in rows) if isinstance(rows, list) else ()

    def version(self) -> str:
        version = self._read("/api/version").json().get("version")
        if not isinstance(version, str):
            raise BadAnswer("The server names no version: not Ollama.")
        return _printable(version)[:40]

    def observe(self, now: datetime) -> Observation:
        """Read everything once. An error is part of the observation, not raised."""
        try:
            seen = self._observe_residents(now)
            installed = self.installed()
            return replace(seen, installed=installed, version=self._known_version())
        except OllamaError as exc:
            return Observation(now, error=exc.text)

    def observe_resident(self, now: datetime, known: Observation) -> Observation:
        """Read only what is loaded; the rest stays as it was last seen."""
        try:
            seen = self._observe_residents(now)
        except OllamaError as exc:
            return Observation(now, error=exc.text)
        return replace(seen, installed=known.installed, version=known.version)

    def _observe_residents(self, now: datetime) -> Observation:
        """What is loaded, and what the exchange itself tells: a server that restarts closes the
        connection that was kept open, and HTTP names the server's time."""
        began = time.monotonic()
        before, self._opened_before = self._opened_before, None
        answer = self._read("/api/ps")
        latency_ms = round((time.monotonic() - began) * 1000)
        self._opened_before = self._opened
        return Observation(
            now,
            self._rows("/api/ps", answer, _resident),
            latency_ms=latency_ms,
            # Also where it was another call in between that met the closed connection.
            reconnected=before is not None and self._opened != before,
            clock_ahead_s=_ahead_s(answer.date, now),
        )

    def _known_version(self) -> str:
        """The server's version: asked for again over a new connection, and now and then."""
        now = time.monotonic()
        known = self._version and self._version_opened == self._opened
        if not known or now - self._version_at > VERSION_EVERY_S:
            self._version, self._version_at = self.version(), now
            self._version_opened = self._opened
        return self._version

    def load(self, spec: Spec, embeds: bool, timeout_s: float, call: calls.Call) -> Loaded:
        began = time.monotonic()
        if embeds:  # fact 16: an embedding model refuses even an empty generate
            body = {"model": spec.tag, "input": "Hello", **_how(spec)}
            answer = self._post("/api/embed", body, timeout_s, call)
        else:
            body = {"model": spec.tag, "prompt": "", "stream": False, **_how(spec)}
            answer = self._post("/api/generate", body, timeout_s, call)
            _check_done(answer, spec.tag)
        # An empty generate names no load_duration: then it is what the caller waited.
        return Loaded(_seconds(answer, "load_duration") or time.monotonic() - began)

    def warm(
        self, spec: Spec, warmup: WarmUp, embeds: bool, timeout_s: float, call: calls.Call
    ) -> Warmed:
        if embeds:
            body = {"model": spec.tag, "input": warmup.prompt, **_how(spec)}
            answer = self._post("/api/embed", body, timeout_s, call)
            vectors = answer.get("embeddings")
            if not isinstance(vectors, list) or not vectors or not vectors[0]:
                raise NotDone(f"{spec.tag} answered the warm-up without an embedding.")
            return Warmed(0, 0.0, _seconds(answer, "total_duration"))
        how = _how(spec)
        # Fact 11: without num_predict the model talks as long as it likes.
        how["options"] = {**how.get("options", {}), "num_predict": warmup.num_predict}
        body = {"model": spec.tag, "prompt": warmup.prompt, "stream": False, **how}
        answer = self._post("/api/generate", body, timeout_s, call)
        _check_done(answer, spec.tag)
        tokens = _count(answer, "eval_count")
        eval_s = _seconds(answer, "eval_duration")
        speed = tokens / eval_s if eval_s else 0.0
        return Warmed(tokens, speed, _seconds(answer, "total_duration"))

    def unload(self, name: str, call: calls.Call | None = None) -> None:
        # Fact 6: the number 0. Facts 1, 2, 4: the 200 says nothing of whether it has left.
        body = {"model": name, "prompt": "", "stream": False, "keep_alive": 0}
        self._post("/api/generate", body, QUICK_S, call or calls.Call())

    def copy(self, source: str, destination: str, call: calls.Call | None = None) -> None:
        body = {"source": source, "destination": destination}
        self._exchange("POST", "/api/copy", body, QUICK_S, call or calls.Call())

    def delete(self, name: str, call: calls.Call | None = None) -> None:
        self._exchange("DELETE", "/api/delete", {"model": name}, QUICK_S, call or calls.Call())

    def _read(self, path: str, call: calls.Call | None = None) -> calls.Answer:
        return self._exchange("GET", path, None, QUICK_S, call or calls.Call())

    def _rows(
        self, path: str, answer: calls.Answer, read: Callable[[dict[str, Any]], T]
    ) -> tuple[T, ...]:
        """The models that an answer lists. Mostly it is the last one, byte for byte: that is not
        read again. Of a catalogue, which may be long, only a digest is kept."""
        digest = blake2b(answer.body, digest_size=16).digest()
        heard = self._heard.get(path)
        if heard is None or heard[0] != digest:
            heard = self._heard[path] = (digest, _rows(answer.json(), read))
        return heard[1]

    def _post(
        self, path: str, body: dict[str, Any], timeout_s: float, call: calls.Call
    ) -> dict[str, Any]:
        return self._send("POST", path, body, timeout_s, call)

    def _send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        timeout_s: float,
        call: calls.Call,
    ) -> dict[str, Any]:
        return self._exchange(method, path, body, timeout_s, call).json()

    def _exchange(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        timeout_s: float,
        call: calls.Call,
    ) -> calls.Answer:
        try:
            answer = calls.send(self._session, method, self.base_url + path, body, timeout_s, call)
        finally:
            self._opened += call.connected
        if answer.status == 200:
            return answer
        raise _refusal(answer)


def _how(spec: Spec) -> dict[str, Any]:
    """Keep-alive and options go with *every* call about a model: one without its keep-alive
    falls back to the server's default, one with other options reloads it (facts 12, 13)."""
    how: dict[str, Any] = {"keep_alive": wire_keep_alive(spec.keep_alive)}
    if spec.runner_options:
        how["options"] = dict(spec.runner_options)
    return how


def _refusal(answer: calls.Answer) -> OllamaError:
    try:
        message = _printable(str(answer.json().get("error") or ""))[:500]
    except BadAnswer:
        message = ""
    if not message:
        return BadAnswer(f"The server answered {answer.status} without saying why.")
    text = f"Ollama answered {answer.status}: {message}"
    if answer.status == 404 and "not found" in message:
        return ModelMissing(text, answer.status, message)
    if answer.status == 503:
        return ServerBusy(text, answer.status, message)
    return Refused(text, answer.status, message)


def _check_done(answer: dict[str, Any], tag: str) -> None:
    """Fact 10: a 200 with `done: false` is a runner that stopped."""
    if answer.get("done") is not True:
        raise NotDone(f"Ollama's answer for {tag} ended early (done: false).")


def _rows(answer: dict[str, Any], read: Callable[[dict[str, Any]], T]) -> tuple[T, ...]:
    rows = answer.get("models")
    if rows is None and "models" in answer:
        return ()  # an empty list in Go may come as null
    if not isinstance(rows, list):
        raise BadAnswer("The server's answer lists no models: not Ollama.")
    try:
        return tuple(read(row) for row in rows)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
        raise BadAnswer("The server lists a model in a shape that is not Ollama's.") from exc


def _resident(row: dict[str, Any]) -> Resident:
    return Resident(
        name=ModelName.parse(_word(row["name"], 200)),
        digest=_word(row["digest"], 80),
        size=_number(row["size"]),
        size_vram=_number(row.get("size_vram") or 0),
        context_length=_number(row.get("context_length") or 0),
        expires_at=_time(row.get("expires_at")),
    )


def _installed(row: dict[str, Any]) -> Installed:
    capabilities = row.get("capabilities") or ()
    return Installed(
        name=ModelName.parse(_word(row["name"], 200)),
        digest=_word(row["digest"], 80),
        size=_number(row["size"]),
        capabilities=tuple(_word(c, 40) for c in capabilities),
    )


def _word(value: object, longest: int) -> str:
    """A name: text that can be stored and shown."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("not a name")
    return value[:longest]


def _number(value: object) -> int:
    """A count of bytes or tokens, as a server in Go can hold it."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError("not a size")
    return value


def _printable(text: str) -> str:
    """Words of the server's for people: no database takes its NUL or half a surrogate."""
    return "".join(c if c.isprintable() else " " for c in text)


_NANOSECONDS = re.compile(r"(\.\d{6})\d+")


def _time(text: object) -> datetime | None:
    """RFC 3339 with up to nine digits of a second; Python's datetime holds six."""
    if not isinstance(text, str) or not text:
        return None
    moment = datetime.fromisoformat(_NANOSECONDS.sub(r"\1", text))
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _ahead_s(date: str, now: datetime) -> float:
    """Seconds that the server's clock is ahead of ours. HTTP's dates are whole seconds: less than
    three count as none."""
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return 0.0
    if theirs.tzinfo is None:
        return 0.0
    ahead = (theirs - now).total_seconds()
    return ahead if abs(ahead) >= 3 else 0.0


def _seconds(answer: dict[str, Any], key: str) -> float:
    """Durations are nanoseconds (fact 17); what cannot be one counts as not said."""
    return _figure(answer, key) / 1e9


def _count(answer: dict[str, Any], key: str) -> int:
    return int(_figure(answer, key))


def _figure(answer: dict[str, Any], key: str) -> float:
    value = answer.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 0
    return value if 0 <= value < 2**63 else 0
