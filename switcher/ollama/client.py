"""The calls that Switchboard makes to Ollama. See Ollama's docs/api.md and docs/ollama-facts.md.

Every answer is checked before it is used: a server's data is input like any other.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from hashlib import blake2b
from typing import Any, Protocol, TypeVar

from switcher.domain.memory import ModelFacts, NeedsVerbose, facts_of
from switcher.domain.observed import Installed, Observation, Resident
from switcher.domain.servers import Server
from switcher.domain.specs import Spec, WarmUp, wire_keep_alive
from switcher.ollama import awaited
from switcher.ollama.calls import Answer, Call, Session, send
from switcher.ollama.errors import (
    AddressRefused,
    BadAnswer,
    ModelMissing,
    NotDone,
    OllamaError,
    Refused,
    ServerBusy,
)
from switcher.ollama.hints import hint
from switcher.ollama.lists import (
    Listed,
    marks,
    older_capabilities,
    parse_capabilities,
    parse_installed,
    parse_models,
    parse_resident,
    printable,
)
from switcher.ollama.transport import transport_of

T = TypeVar("T")

log = logging.getLogger(__name__)

QUICK_TIMEOUT_S = 5.0  # for calls that a healthy server answers within milliseconds
# Where a model's description names the file of its weights.
_FROM = re.compile(r"^FROM \S*sha256[-:]([0-9a-f]{64})\s*$", re.MULTILINE)
# A server that is replaced closes its connections and is asked at once. A proxy in front of it may
# keep them open.
VERSION_INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True)
class Warmed:
    """An answered warm-up. `tokens_per_s` is 0 for embedding models."""

    tokens: int
    tokens_per_s: float
    seconds: float


class Ollama(Protocol):
    """The interface through which everything touches a host. Each call raises kinds of
    OllamaError."""

    def resident(self, call: Call | None = None) -> tuple[Resident, ...]:
        """Return what is loaded, freshly read (`/api/ps`)."""
        ...

    def installed(self, call: Call | None = None) -> tuple[Installed, ...]:
        """Return what is on the host's disk (`/api/tags`)."""
        ...

    def capabilities(self, name: str, call: Call | None = None) -> tuple[str, ...]:
        """Return what a model can do (`/api/show`); older servers list it only there (fact 16)."""
        ...

    def facts(self, name: str, call: Call | None = None) -> ModelFacts | None:
        """Return what decides how much memory a model takes (`/api/show`); None if the server does
        not tell."""
        ...

    def load(self, spec: Spec, embeds: bool, timeout_s: float, call: Call) -> float:
        """Load a model, without a prompt if possible, and wait until it is loaded (fact 8).

        Return the seconds that it took, as the server reports them, else as measured here.
        """
        ...

    def warm(
        self, spec: Spec, warmup: WarmUp, embeds: bool, timeout_s: float, call: Call
    ) -> Warmed:
        """Send one prompt and wait for the reply. Only `done: true` is a success (fact 10)."""
        ...

    def unload(self, name: str, call: Call | None = None) -> None:
        """Request an unload. The answer comes before the model is unloaded (fact 1)."""
        ...

    def copy(self, source: str, destination: str, call: Call | None = None) -> None:
        """Make a name point to another one's content, whatever it pointed to before (fact 21).

        Not atomic: a client that uses the name at that moment may get a 500 (fact 26). Raises
        ModelMissing if there is no such source.
        """
        ...

    def delete(self, name: str, call: Call | None = None) -> None:
        """Delete a name from the disk; a loaded model stays loaded (fact 24).

        Raises ModelMissing if there is no such name.
        """
        ...

    def close(self) -> None: ...


class Client:
    """The interface over HTTP, for one host and one thread. Cheap to make; call `close` when
    done."""

    def __init__(self, server: Server | str) -> None:
        self._server = Server.at(server)
        self.base_url = self._server.base_url.rstrip("/")
        self._session: Session | None = None  # made at the first call, which can fail
        self._connections = 0  # opened so far
        self._connections_at_reading: int | None = None  # when /api/ps was last answered
        self._parsed: dict[str, Listed[Any]] = {}  # by path
        self._version = ""
        self._version_at = float("-inf")
        self._version_connections = 0

    def close(self) -> None:
        if self._session is not None:
            self._session.close()

    def resident(self, call: Call | None = None) -> tuple[Resident, ...]:
        return self._models("/api/ps", self._get("/api/ps", call), parse_resident).rows

    def installed(self, call: Call | None = None) -> tuple[Installed, ...]:
        return self._models("/api/tags", self._get("/api/tags", call), parse_installed).rows

    def capabilities(self, name: str, call: Call | None = None) -> tuple[str, ...]:
        answer = self._post("/api/show", {"model": name}, QUICK_TIMEOUT_S, call or Call())
        if "capabilities" not in answer:
            return older_capabilities(answer.get("model_info"))
        return parse_capabilities(answer.get("capabilities"))

    def facts(self, name: str, call: Call | None = None) -> ModelFacts | None:
        for verbose in (False, True):
            body = {"model": name, "verbose": verbose}
            answer = self._post("/api/show", body, QUICK_TIMEOUT_S, call or Call())
            info = answer.get("model_info")
            if not isinstance(info, dict):
                return None
            try:
                found = facts_of(info, _num_ctx(answer.get("parameters")))
                return found and replace(found, file=_file(answer.get("modelfile")))
            except NeedsVerbose:
                pass  # a verbose answer has the lists too, and the whole vocabulary
        return None

    def version(self) -> str:
        """Return the server's version. Raises BadAnswer if it names none."""
        version = self._get("/api/version").json().get("version")
        if not isinstance(version, str):
            raise BadAnswer("The server names no version: not Ollama.")
        return printable(version)[:40]

    def observe(self, now: datetime) -> Observation:
        """Read everything once. An error is returned in the observation, not raised."""
        try:
            seen = self._observe_resident(now)
            tags = self._models("/api/tags", self._get("/api/tags"), parse_installed)
            version = self._known_version()
            return replace(seen, installed=tags.rows, catalog=tags.marks, version=version)
        except OllamaError as exc:
            return Observation(now, error=exc.text)

    def observe_resident(self, now: datetime, known: Observation) -> Observation:
        """Read only the loaded models; the rest is copied from the last observation."""
        try:
            seen = self._observe_resident(now)
        except OllamaError as exc:
            return Observation(now, error=exc.text)
        return replace(
            seen, installed=known.installed, catalog=known.catalog, version=known.version
        )

    def _observe_resident(self, now: datetime) -> Observation:
        """Read the loaded models, and what the HTTP exchange itself reveals: a restarting server
        closes its connections, and responses carry the server's time."""
        began = time.monotonic()
        before, self._connections_at_reading = self._connections_at_reading, None
        answer = self._get("/api/ps")
        latency_ms = round((time.monotonic() - began) * 1000)
        self._connections_at_reading = self._connections
        listed = self._models("/api/ps", answer, parse_resident)
        return Observation(
            now,
            listed.rows,
            loads=listed.marks,
            latency_ms=latency_ms,
            # Another call in between may have been the one that found the connection closed.
            reconnected=before is not None and self._connections != before,
            clock_ahead_s=_ahead_s(answer.date, now),
        )

    def _known_version(self) -> str:
        """Return the version, read again after each new connection and every VERSION_INTERVAL_S."""
        now = time.monotonic()
        is_known = self._version and self._version_connections == self._connections
        if not is_known or now - self._version_at > VERSION_INTERVAL_S:
            self._version, self._version_at = self.version(), now
            self._version_connections = self._connections
        return self._version

    def load(self, spec: Spec, embeds: bool, timeout_s: float, call: Call) -> float:
        began = time.monotonic()
        if embeds:  # fact 16: an embedding model refuses even an empty generate
            body = {"model": spec.tag, "input": "Hello", **_runner_settings(spec)}
            answer = self._post("/api/embed", body, timeout_s, call)
        else:
            body = {"model": spec.tag, "prompt": "", "stream": False, **_runner_settings(spec)}
            answer = self._post("/api/generate", body, timeout_s, call)
            _check_done(answer, spec.tag)
        # The answer to an empty generate has no load_duration.
        return _seconds(answer, "load_duration") or time.monotonic() - began

    def warm(
        self, spec: Spec, warmup: WarmUp, embeds: bool, timeout_s: float, call: Call
    ) -> Warmed:
        settings = _runner_settings(spec)
        if embeds:
            body = {"model": spec.tag, "input": warmup.prompt, **settings}
            answer = self._post("/api/embed", body, timeout_s, call)
            vectors = answer.get("embeddings")
            if not isinstance(vectors, list) or not vectors or not vectors[0]:
                raise NotDone(f"{spec.tag} answered the warm-up without an embedding.")
            return Warmed(0, 0.0, _seconds(answer, "total_duration"))
        # Fact 11: without num_predict the length of the reply is unlimited.
        settings["options"] = {**settings.get("options", {}), "num_predict": warmup.num_predict}
        body = {"model": spec.tag, "prompt": warmup.prompt, "stream": False, **settings}
        answer = self._post("/api/generate", body, timeout_s, call)
        _check_done(answer, spec.tag)
        tokens = int(_figure(answer, "eval_count"))
        eval_s = _seconds(answer, "eval_duration")
        speed = tokens / eval_s if eval_s else 0.0
        return Warmed(tokens, speed, _seconds(answer, "total_duration"))

    def unload(self, name: str, call: Call | None = None) -> None:
        # Fact 6: the number 0. Facts 1, 2, 4: a 200 does not mean that the model is unloaded.
        body = {"model": name, "prompt": "", "stream": False, "keep_alive": 0}
        self._post("/api/generate", body, QUICK_TIMEOUT_S, call or Call())

    def copy(self, source: str, destination: str, call: Call | None = None) -> None:
        body = {"source": source, "destination": destination}
        self._exchange("POST", "/api/copy", body, QUICK_TIMEOUT_S, call or Call())

    def delete(self, name: str, call: Call | None = None) -> None:
        body = {"model": name}
        self._exchange("DELETE", "/api/delete", body, QUICK_TIMEOUT_S, call or Call())

    def _models(self, path: str, answer: Answer, parse: Callable[[dict[str, Any]], T]) -> Listed[T]:
        """Return the models that an answer lists.

        Usually the answer equals the last one byte for byte, and is not parsed again. To compare
        them, only the last answer's hash is kept, since a list may be long.
        """
        digest = blake2b(answer.body, digest_size=16).digest()
        known = self._parsed.get(path)
        if known is None or known.body_digest != digest:
            values = answer.json()
            rows = parse_models(values, parse)
            known = self._parsed[path] = Listed(digest, rows, marks(values["models"] or ()))
        return known

    def _get(self, path: str, call: Call | None = None) -> Answer:
        return self._exchange("GET", path, None, QUICK_TIMEOUT_S, call or Call())

    def _post(
        self, path: str, body: dict[str, Any], timeout_s: float, call: Call
    ) -> dict[str, Any]:
        return self._exchange("POST", path, body, timeout_s, call).json()

    def _exchange(
        self, method: str, path: str, body: dict[str, Any] | None, timeout_s: float, call: Call
    ) -> Answer:
        if self._session is None:
            self._session = Session(transport_of(self._server))
        try:
            answer = send(self._session, method, self.base_url + path, body, timeout_s, call)
        finally:
            self._connections += call.connected
        if answer.status == 200:
            awaited.answered(self.base_url)
            return answer
        raise _refusal(answer, self.base_url)


def _runner_settings(spec: Spec) -> dict[str, Any]:
    """Return keep-alive and options, which *every* call about a model must include.

    A call without its keep-alive falls back to the server's default; one with other options reloads
    the model (facts 12, 13).
    """
    settings: dict[str, Any] = {"keep_alive": wire_keep_alive(spec.keep_alive)}
    if spec.runner_options:
        settings["options"] = dict(spec.runner_options)
    return settings


def _file(modelfile: object) -> str:
    """Return the digest of a model's file; empty if its description names none."""
    found = _FROM.search(modelfile) if isinstance(modelfile, str) else None
    return found[1] if found else ""


def _num_ctx(parameters: object) -> int:
    """Return the context length that a model sets for itself; 0 if it sets none."""
    text = parameters if isinstance(parameters, str) else ""
    found = re.search(r"^num_ctx\s+(\d{1,9})\s*$", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _refusal(answer: Answer, base_url: str) -> OllamaError:
    try:
        error = answer.json().get("error")
    except BadAnswer:
        error = None
    # Of another kind of service, whose errors are no texts, nothing is shown.
    message = printable(error)[:500] if isinstance(error, str) else ""
    if not message:
        why = hint(answer.status, base_url)
        return BadAnswer(f"The server answered {answer.status} without saying why.{why}")
    text = f"Ollama answered {answer.status}: {message}"
    if answer.status == 404 and "not found" in message:
        return ModelMissing(text, answer.status, message)
    if answer.status == 508:
        return AddressRefused(message)
    if answer.status == 503:
        return ServerBusy(text, answer.status, message)
    return Refused(text, answer.status, message)


def _check_done(answer: dict[str, Any], tag: str) -> None:
    """Raise NotDone if the runner stopped early, which the server reports as a 200 with `done:
    false` (fact 10)."""
    if answer.get("done") is not True:
        raise NotDone(f"Ollama's answer for {tag} ended early (done: false).")


def _ahead_s(date: str, now: datetime) -> float:
    """Return how many seconds the server's clock is ahead of ours, and 0 for less than three.

    HTTP's dates are whole seconds.
    """
    try:
        theirs = parsedate_to_datetime(date)
    except ValueError:
        return 0.0
    if theirs.tzinfo is None:
        return 0.0
    ahead = (theirs - now).total_seconds()
    return ahead if abs(ahead) >= 3 else 0.0


def _seconds(answer: dict[str, Any], key: str) -> float:
    """Return a duration, which Ollama writes in nanoseconds (fact 17); 0 if it is impossible."""
    return _figure(answer, key) / 1e9


def _figure(answer: dict[str, Any], key: str) -> float:
    value = answer.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return 0
    return value if 0 <= value < 2**63 else 0
