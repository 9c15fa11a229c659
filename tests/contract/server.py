"""A server under contract, real or simulated, over HTTP."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import requests

from tests.until import until

COPIES = "contract-"  # in all names that tests create
PATIENCE_S = 90.0


@dataclass(frozen=True)
class Models:
    """The models that tests use: two larger ones, two small ones, one for embeddings."""

    a: str
    b: str
    small_a: str
    small_b: str
    embed: str


@dataclass
class Ollama:
    """A server. `simulated` ones support faults."""

    url: str
    models: Models
    simulated: bool
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(16))

    # -- requests

    def call(self, method: str, path: str, body: Any = None, **how: Any) -> requests.Response:
        data = body if isinstance(body, str | None) else json.dumps(body)
        return requests.request(method, self.url + path, data=data, timeout=PATIENCE_S, **how)

    def post(self, path: str, **body: Any) -> requests.Response:
        return self.call("POST", path, body)

    def get(self, path: str) -> Any:
        response = self.call("GET", path)
        response.raise_for_status()
        return response.json()

    def generate(self, model: str, prompt: str = "Hello", **more: Any) -> requests.Response:
        """Generate two tokens, unless set otherwise, in one response."""
        body: dict[str, Any] = {"model": model, "prompt": prompt, "stream": False, **more}
        body["options"] = {"num_predict": 2, **more.get("options", {})}
        return self.call("POST", "/api/generate", body)

    def load(self, model: str, keep_alive: Any = "30m", **options: Any) -> dict[str, Any]:
        """Load a model with a prompt for two tokens; return the response."""
        response = self.generate(model, keep_alive=keep_alive, options=options)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        assert answer["done"] is True
        self.wait_settled()
        return answer

    def unload(self, model: str) -> requests.Response:
        return self.post("/api/generate", model=model, prompt="", keep_alive=0)

    def begin(self, act: Callable[..., Any], *given: Any, **more: Any) -> Future[Any]:
        """Run a call in the background."""
        return self._pool.submit(act, *given, **more)

    def begin_load(self, model: str, keep_alive: Any = "30m") -> Future[requests.Response]:
        """Start a load without a prompt in the background; the server has received it on return."""
        body = {"model": model, "prompt": "", "keep_alive": keep_alive}
        load = self.begin(self.call, "POST", "/api/generate", body)
        self.round_trips()
        return load

    def round_trips(self) -> None:
        """Make some quick calls, so that earlier requests have arrived."""
        for _ in range(5):
            self.get("/api/version")

    @contextmanager
    def talking(self, model: str, **more: Any) -> Iterator[Iterator[bytes]]:
        """Yield the further lines of a long reply that has begun; leaving the block aborts it."""
        options = {"num_predict": 400, "temperature": 60.0}
        body = {"model": model, "prompt": "Once upon a time", "options": options, **more}
        with self.call("POST", "/api/generate", body, stream=True) as response:
            assert response.status_code == 200
            lines = response.iter_lines(chunk_size=1)
            next(lines)
            yield lines

    def raw(self, path: str, body: Any) -> socket.socket:
        """Send a request over a connection that the test can close."""
        where = urlsplit(self.url)
        assert where.hostname is not None
        connection = socket.create_connection((where.hostname, where.port or 80), timeout=10)
        data = json.dumps(body)
        head = f"POST {path} HTTP/1.1\r\nHost: {where.netloc}\r\nContent-Length: {len(data)}"
        connection.sendall(f"{head}\r\n\r\n{data}".encode())
        self.round_trips()
        return connection

    # -- what is there

    def ps(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.get("/api/ps")["models"]
        return rows

    def names(self) -> set[str]:
        return {row["name"] for row in self.ps()}

    def row(self, model: str) -> dict[str, Any]:
        """Return the row of `/api/ps` with this name."""
        rows = [r for r in self.ps() if r["name"] == full(model)]
        assert len(rows) == 1, f"{len(rows)} rows named {model}"
        return rows[0]

    def wait_gone(self, model: str, seconds: float = PATIENCE_S) -> None:
        until(lambda: full(model) not in self.names(), seconds, f"{model} leaving")

    def wait_settled(self) -> None:
        """Wait until `/api/ps` stops changing: a server sets the expiry shortly after it answers,
        and until then recomputes it for each reading.
        """
        until(lambda: self.ps() == self.ps(), what="a fixed expiry")

    def wait_expiry_after(self, model: str, before: str) -> str:
        """Wait until the model expires later than `before`; return the new expiry."""

        def later() -> str:
            found: str = self.row(model)["expires_at"]
            return found if found > before else ""

        return until(later, what="a later expiry")

    def wait_minutes_left(self, model: str, more_than: float, at_most: float) -> None:
        """Wait until the model expires within these bounds."""
        until(
            lambda: more_than < self.minutes_left(model) <= at_most,
            what=f"an expiry in {more_than} to {at_most} minutes",
        )

    def wait_loaded(self, model: str) -> None:
        until(lambda: full(model) in self.names(), PATIENCE_S, f"loading {model}")

    def digest(self, model: str) -> str:
        """Return the digest that a name has in `/api/tags`."""
        found: str = self.digests()[full(model)]
        return found

    def digests(self) -> dict[str, str]:
        return {row["name"]: row["digest"] for row in self.get("/api/tags")["models"]}

    def minutes_left(self, model: str) -> float:
        expires_at = datetime.fromisoformat(self.row(model)["expires_at"])
        return (expires_at - datetime.now(UTC)).total_seconds() / 60

    # -- names

    def copy(self, source: str, destination: str) -> None:
        assert COPIES in destination.lower()
        response = self.post("/api/copy", source=source, destination=destination)
        assert response.status_code == 200, response.text

    def delete(self, model: str) -> requests.Response:
        return self.call("DELETE", "/api/delete", {"model": model})

    # -- only a simulator has these

    def fault(self, kind: str, **fields: Any) -> requests.Response:
        assert self.simulated
        response = self.call("POST", "/_sim/faults", {"kind": kind, **fields})
        assert response.status_code == 200, response.text
        return response

    def state(self) -> dict[str, Any]:
        assert self.simulated
        found: dict[str, Any] = self.get("/_sim/state")
        return found

    def clean(self) -> None:
        """Unload everything, and remove copies and faults."""
        if self.simulated:
            self.call("DELETE", "/_sim/faults")
        self._unload_all()
        for name in self.digests():
            if COPIES in name.lower():
                self.delete(name)

    def _unload_all(self) -> None:
        """Unload all runners, each by any name with its content, which need not be its own."""

        def nothing_left() -> bool:
            rows, names = self.ps(), self.digests()
            for digest in {row["digest"] for row in rows}:
                for name in [n for n, d in names.items() if d == digest][:1]:
                    self.unload(name)
            return not rows

        until(nothing_left, PATIENCE_S, "unloading everything")

    def close(self) -> None:
        self._pool.shutdown()


def full(model: str) -> str:
    """Return the name with its tag (fact 20)."""
    return model if ":" in model else f"{model}:latest"


@contextmanager
def simulator(models: Models, *flags: str) -> Iterator[Ollama]:
    """Yield a new simulator in a separate process."""
    sizes = {models.a: 500_000_000, models.b: 500_000_000}
    sizes |= {models.small_a: 1_000_000, models.small_b: 1_000_000, models.embed: 1_000_000}
    disk = [f"--model={tag}={size}" for tag, size in sizes.items()]
    disk[-1] += ",embed"
    speeds = ["--load-rate=1.2GB", "--tokens-per-s=150"]
    process = subprocess.Popen(
        [sys.executable, "-m", "ollama_simulator", "--port=0", *speeds, *disk, *flags],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        server = Ollama(line.split()[-1], models, simulated=True)
        yield server
        server.close()
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        assert process.stdout is not None
        process.stdout.close()
