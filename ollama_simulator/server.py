"""One simulated server without HTTP: its disk, its scheduler, its faults. No I/O.

A simulation drives it directly with simulated time:

    server = Server(Config(vram=24_000_000_000))
    server.add_model("mid-a", 400_000_000)
    ask = server.submit(Request("mid-a", keep_alive="30m", empty=True))
    while not ask.ended:
        server.advance(server.next_event_at())
    server.ps()[0].name  # "mid-a:latest"

A caller that disconnects calls `abandon(ask)`. Requests that the server refuses at once raise
`Refused`; those that fail later end in state `failed`, with `status` and `error`, or with `cut`
if the connection breaks without a response.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ollama_simulator.catalog import (
    Catalog,
    Manifest,
    full_name,
    local_name,
    make_manifest,
    valid_name,
)
from ollama_simulator.durations import BadDuration, keep_alive_s
from ollama_simulator.faults import Fault, Faults
from ollama_simulator.machine import Machine
from ollama_simulator.runner import (
    OPTION_TYPES,
    RUNNER_OPTIONS,
    Ask,
    Config,
    Runner,
    effective_ctx,
)

DEFAULT_TOKENS = 24  # tokens of a reply without a limit
MAX_CONTEXTS = 10  # a reply is cut at this many times its context, as on the real server


class Refused(Exception):
    """An error response: `status` and `text`."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.text, self.status = text, status


class Unread(Refused):
    """An error in the body, found before anything else is checked."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a model.

    `kind` is generate, chat, embed or embeddings. `empty` means no prompt: it only loads, or
    unloads if `keep_alive` is 0. `keep_alive` and `options` are as in the body. `tokens` is how
    many to generate, None for no limit. Simulated models do not support `think`.
    """

    model: str
    kind: str = "generate"
    empty: bool = False
    keep_alive: object = None
    options: Mapping[str, object] = field(default_factory=dict)
    tokens: int | None = None
    think: bool = False
    shift: bool = True


@dataclass(frozen=True, slots=True)
class Resident:
    """A row of `/api/ps`: sizes in bytes, context in tokens, times in simulated seconds."""

    name: str
    digest: str
    size: int
    size_vram: int
    context_length: int
    expires_at: float
    manifest: Manifest


class Server:
    """A simulated server; see the module. Times are seconds on the clock of `advance`."""

    def __init__(self, config: Config | None = None, now: float = 0.0) -> None:
        self.config = config or Config()
        self.catalog = Catalog()
        self.faults = Faults()
        self.machine = Machine(self.config, self.faults, now)

    @property
    def now(self) -> float:
        return self.machine.now

    def add_model(
        self,
        tag: str,
        size: int,
        embeds: bool = False,
        num_ctx: int = 0,
        digest: str = "",
        remote_host: str = "",
        kind: str = "",
    ) -> Manifest:
        """Put a model on the disk. `size` in bytes."""
        name = full_name(tag).removesuffix(":latest")
        manifest = make_manifest(name, size, embeds, num_ctx, digest)
        manifest = replace(manifest, remote_host=remote_host, kind=kind)
        self.catalog.add(tag, manifest, self.now)
        return manifest

    # -- requests

    def submit(self, request: Request) -> Ask:
        """Submit a request to the scheduler. Raises `Refused`."""
        keep_alive = read_keep_alive(request.keep_alive)
        manifest = self.resolve(request.model, request.kind)
        name = self.catalog.known(local_name(request.model))
        if manifest.remote_host:  # fact 28: this machine is not signed in
            raise Refused("unauthorized", 401)
        if manifest.kind == "image":
            raise Refused("image generation models are not currently supported", 400)
        if request.empty and keep_alive == 0 and request.kind in ("generate", "chat"):
            self.machine.note("unload asked", name)
            self.machine.unload(manifest)  # facts 1, 6
            return Ask(name, manifest, asked_at=self.now, state="done", reason="unload")
        if manifest.embeds and request.kind in ("generate", "chat"):  # fact 16
            raise Refused(f'"{request.model}" does not support {request.kind}', 400)
        if request.think:
            raise Refused(f'"{request.model}" does not support thinking', 400)
        ask = Ask(name, manifest, read_options(request.options), keep_alive, request.shift)
        self._plan_reply(ask, request)
        return self.machine.submit(ask)

    def _plan_reply(self, ask: Ask, request: Request) -> None:
        if request.empty:
            ask.reason = "load"
        elif request.kind in ("embed", "embeddings"):
            ask.tokens, ask.work_s = 1, self.config.embed_s
        else:
            most = MAX_CONTEXTS * effective_ctx(ask.options, ask.manifest)
            ask.tokens = (
                DEFAULT_TOKENS if request.tokens is None else min(max(1, request.tokens), most)
            )
            ask.reason = "stop" if request.tokens is None else "length"
            self._plan_break(ask)

    def _plan_break(self, ask: Ask) -> None:
        for kind in ("done_false", "cut_stream"):
            if row := self.faults.take(kind, tag=ask.name):
                ask.breaks_after = min(row["tokens"], ask.tokens)
                ask.cuts = kind == "cut_stream"

    def resolve(self, name: str, kind: str = "generate") -> Manifest:
        """Return the manifest that a name means now. Raises `Refused` with the message for this
        kind of request (fact 15).
        """
        if not name:
            texts = {"chat": ("model is required", 400), "embeddings": ("model is required", 400)}
            raise Refused(*texts.get(kind, ("model '' not found", 404)))
        name = local_name(name)
        if not valid_name(name):
            raise Refused("invalid model name", 400)
        if self.catalog.torn(name, self.now):
            raise Refused("EOF", 500)  # fact 26
        manifest = self.catalog.find(name)
        if manifest is None and kind in ("embed", "embeddings"):
            raise Refused(f'model "{name}" not found, try pulling it first', 404)
        if manifest is None:
            raise Refused(f"model '{name}' not found", 404)
        return manifest

    def abandon(self, ask: Ask) -> None:
        """Drop the request of a disconnected client (fact 9)."""
        self.machine.abandon(ask)

    # -- the disk

    def copy(self, source: str, destination: str) -> float:
        """Copy a model (facts 21, 26); return for how many seconds the destination is empty."""
        for what, name in (("source", source), ("destination", destination)):
            if not valid_name(name):
                raise Refused(f'{what} "{name}" is invalid', 400)
        torn = self.faults.take("torn_copy")
        gap = torn["seconds"] if torn else self.config.copy_gap_s
        if not self.catalog.copy(source, destination, self.now, gap):
            raise Refused(f'model "{source}" not found', 404)
        return float(gap)

    def delete(self, name: str) -> None:
        """Delete a name (fact 24). Raises `Refused`."""
        if not name:
            raise Refused("model is required", 400)
        if not valid_name(name):
            raise Refused(f'name "{name}" is invalid', 400)
        if not self.catalog.delete(name):
            raise Refused(f"model '{name}' not found", 404)

    # -- loaded models and failures

    def ps(self) -> list[Resident]:
        """Return the rows of `/api/ps`, latest expiry first."""
        return [
            Resident(
                r.name, r.manifest.digest, r.size, r.size_vram, r.num_ctx, expires_at, r.manifest
            )
            for r, expires_at in self.machine.listed()
        ]

    def do(self, act: Fault) -> bool:
        """Perform an act; return False if there is no such model."""
        tag = str(act.fields.get("tag", ""))
        match act.kind:
            case "restart":
                self.machine.restart()
            case "repull":
                return self.catalog.repull(tag, self.now)
            case "evict" | "kill_runner":
                runners = self._listed_as(tag)
                befall = self.machine.evict if act.kind == "evict" else self.machine.kill_runner
                for runner in runners:
                    befall(runner)
                return bool(runners)
        return True

    def _listed_as(self, tag: str) -> list[Runner]:
        name = self.catalog.known(tag)
        return [r for r in self.machine.runners if r.name == name]

    # -- time

    def next_event_at(self) -> float:
        """Return the time of the next event; infinity if there is none."""
        return self.machine.next_event_at()

    def advance(self, to: float) -> None:
        """Advance time to `to`, processing all events until then."""
        self.machine.advance(to)


def read_keep_alive(value: object) -> float | None:
    """Return a keep-alive in seconds, None if absent. Raises `Refused` (fact 7)."""
    if value is None:
        return None
    try:
        return keep_alive_s(value)
    except BadDuration as exc:
        raise Refused(str(exc), 400) from exc


def read_options(options: Mapping[str, object]) -> dict[str, int | bool]:
    """Return the runner options. Raises `Refused` for any option of the wrong type."""
    found: dict[str, int | bool] = {}
    for name, kind in OPTION_TYPES.items():
        value = options.get(name)
        if value is None:
            continue
        _check_option(name, value, kind)
        if name in RUNNER_OPTIONS:
            assert isinstance(value, bool | int | float)
            found[name] = value if isinstance(value, bool) else int(value)
    return found


def _check_option(name: str, value: object, kind: str) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    good = {"boolean": isinstance(value, bool), "array": isinstance(value, list)}
    if not good.get(kind, number):
        raise Refused(f'option "{name}" must be of type {kind}', 500)
    if isinstance(value, list) and not all(isinstance(part, str) for part in value):
        raise Refused(f'option "{name}" must be of an array of strings', 500)
