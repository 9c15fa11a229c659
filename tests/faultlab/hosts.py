"""The host of a schedule: the simulator's pure server, and the network between it and the
workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ollama_simulator import server as simulated
from ollama_simulator.faults import read_fault
from ollama_simulator.runner import Ask, Config, Runner
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident
from switcher.domain.specs import Spec, wire_keep_alive
from switcher.ollama.client import QUICK_TIMEOUT_S, Warmed
from switcher.ollama.errors import (
    ModelMissing,
    NotDone,
    OllamaError,
    Refused,
    ServerBusy,
    TimedOut,
    Unreachable,
)
from switcher.switching.effects import (
    Copy,
    Delete,
    DescribeModel,
    Effect,
    ListInstalled,
    ListResident,
    Load,
    ShowModel,
    Unload,
    Warm,
)
from tests.faultlab.clock import wall
from tests.faultlab.timeline import Timeline

TRAVEL_S = 0.001
NOTICE_S = 0.05  # until the server notices that a caller disconnected
GB = 1_000_000_000
DISK = {"mid-a": (8 * GB, False), "mid-b": (8 * GB, False), "big": (20 * GB, False)}
DISK |= {"embed": (1 * GB, True)}

Told = Callable[["Exchange"], None]


@dataclass(eq=False, slots=True)
class Exchange:
    """One effect on its way: the request, what the server does with it, and the answer."""

    effect: Effect
    told: Told
    stood_still: Callable[[], bool]  # whether the process that waits for it was paused meanwhile
    wire: dict[str, Any] = field(default_factory=dict)  # faults of the network, by kind
    value: Any = None
    failure: OllamaError | None = None
    handled_at: float = math.inf
    closed: bool = False  # the caller disconnected
    answered: bool = False
    ask: Ask | None = None


@dataclass(frozen=True, slots=True)
class Outside:
    """Something that no switch caused, and that may have unloaded the models in `digests`; None
    means any model."""

    at: float
    what: str
    digests: frozenset[str] | None = None


class LabHost:
    """One server and everything that reaches it. It lives in the timeline's time."""

    def __init__(self, timeline: Timeline, load_rate: float) -> None:
        self._timeline = timeline
        self.server = simulated.Server(Config(vram=24 * GB, load_rate=load_rate), timeline.t)
        for tag, (size, embeds) in DISK.items():
            self.server.add_model(tag, size, embeds)
        self.outside: list[Outside] = []
        self.foreign: set[str] = set()  # digests that other clients asked for
        self.clients: list[Ask] = []
        self.down_until = 0.0
        self.frozen_until = 0.0  # until then it accepts connections, but answers nothing
        self.gone_at: dict[str, float] = {}  # when a digest was last seen to leave
        self.late_at: dict[str, float] = {}  # when one was loaded for a paused process
        self._open: list[Exchange] = []
        self._here: list[Runner] = []
        self._asked_to_leave: set[int] = set()  # ids of runners that other clients unload
        timeline.machine = self.server
        timeline.before_machine = self._note_expiries
        timeline.after_step = self._note_leavings

    # -- what the server holds

    def resident(self) -> tuple[Resident, ...]:
        return tuple(
            Resident(
                ModelName.parse(r.name),
                r.digest,
                r.size,
                r.size_vram,
                r.context_length,
                wall(r.expires_at),
            )
            for r in self.server.ps()
        )

    def installed(self) -> tuple[Installed, ...]:
        return tuple(
            Installed(ModelName.parse(name), m.digest, m.size, tuple(m.capabilities))
            for name, m in self.server.catalog.listed()
        )

    def digests(self) -> set[str]:
        return {r.digest for r in self.server.ps()}

    def digest(self, tag: str) -> str:
        """Return the digest that the tag points to now."""
        return self.server.resolve(tag).digest

    # -- calls of workers

    def send(
        self, effect: Effect, told: Told, stood_still: Callable[[], bool], wire: dict[str, Any]
    ) -> Exchange:
        """Send a request. `told` is called when it was answered or has failed, but not after
        `close`."""
        exchange = Exchange(effect, told, stood_still, wire)
        self._open = [e for e in self._open if not (e.closed or e.answered)] + [exchange]
        self._timeline.after(_timeout_s(effect), lambda: self._time_out(exchange))
        if self._timeline.t < self.down_until or "lose_request" in wire:
            self._answer(exchange, failure=Unreachable("No connection."))
        elif "hang" not in wire:
            delay = TRAVEL_S + wire.get("slow_request", {}).get("seconds", 0.0)
            self._timeline.after(delay, lambda: self._arrive(exchange))
        return exchange

    def close(self, exchange: Exchange) -> None:
        """Disconnect the caller. What is already on its way still arrives."""
        exchange.closed = True
        self._timeline.after(NOTICE_S, lambda: self._abandon(exchange))

    def _abandon(self, exchange: Exchange) -> None:
        if exchange.ask is not None and not exchange.ask.ended:
            self.server.abandon(exchange.ask)

    def _time_out(self, exchange: Exchange) -> None:
        if exchange.answered or exchange.closed:
            return
        exchange.answered, exchange.failure = True, TimedOut("No answer in time.")
        self.close(exchange)
        exchange.told(exchange)

    def _arrive(self, exchange: Exchange) -> None:
        if self._timeline.t < self.down_until:
            self._answer(exchange, failure=Unreachable("Connection refused."))
            return
        if self._when_thawed(lambda: self._arrive(exchange)):
            return
        exchange.handled_at = self._timeline.t
        try:
            self._handle(exchange)
        except simulated.Refused as exc:
            self._answer(exchange, failure=refusal(exc.text, exc.status))

    def _when_thawed(self, act: Callable[[], None]) -> bool:
        """Postpone `act` while the server is frozen; return whether it is."""
        frozen = self._timeline.t < self.frozen_until
        if frozen:
            self._timeline.after(self.frozen_until - self._timeline.t, act)
        return frozen

    def _handle(self, exchange: Exchange) -> None:
        match exchange.effect:
            case ListResident():
                self._answer(exchange, self.resident())
            case ListInstalled():
                self._answer(exchange, self.installed())
            case DescribeModel():
                return
            case ShowModel(name):
                self._answer(exchange, tuple(self.server.resolve(name.full).capabilities))
            case Load(spec, embeds):
                self._submit(exchange, _request(spec, "embed" if embeds else "generate", True))
            case Warm(spec, warmup, embeds):
                kind = "embed" if embeds else "generate"
                self._submit(exchange, _request(spec, kind, False, warmup.num_predict))
            case Unload(names):
                self._answer(exchange, self._unload(names))
            case Copy(source, destination):
                self.server.copy(source.full, destination.full)
                self._answer(exchange)
            case Delete(name):
                if self.server.catalog.find(name.full) is not None:  # like the driver
                    self.server.delete(name.full)
                self._answer(exchange)
            case _:
                raise AssertionError(f"{exchange.effect} is nothing to send")

    def _unload(self, names: Iterable[ModelName]) -> dict[ModelName, str]:
        """Request unloads as the driver does: a refusal is returned as text."""
        texts = {}
        for name in names:
            try:
                self.server.submit(simulated.Request(name.full, empty=True, keep_alive=0))
            except simulated.Refused as exc:
                texts[name] = refusal(exc.text, exc.status).text
        return texts

    def _submit(self, exchange: Exchange, request: simulated.Request) -> None:
        ask = self.server.submit(request)
        exchange.ask = ask
        ask.on_change = lambda: self._changed(exchange, ask)
        if exchange.closed:
            self._timeline.after(NOTICE_S, lambda: self._abandon(exchange))
        self._changed(exchange, ask)

    def _changed(self, exchange: Exchange, ask: Ask) -> None:
        if not ask.ended or exchange.answered:
            return
        exchange.handled_at = self.server.now
        if ask.cut:
            self._answer(exchange, failure=Unreachable("The connection broke."))
        elif ask.state == "failed":
            self._answer(exchange, failure=refusal(ask.error, ask.status))
        elif ask.broken:
            self._answer(exchange, failure=NotDone("The answer ended early (done: false)."))
        elif isinstance(exchange.effect, Load):
            self._answer(exchange, ask.load_s)
        else:
            self._answer(exchange, Warmed(ask.said, ask.tokens_per_s, 0.1))

    def _answer(
        self, exchange: Exchange, value: Any = None, failure: OllamaError | None = None
    ) -> None:
        if "lose_answer" in exchange.wire:
            value, failure = None, Unreachable("The connection broke before the answer.")
        late = exchange.wire.get("late_answer", {}).get("seconds", 0.0)
        self._timeline.after(TRAVEL_S + late, lambda: self._deliver(exchange, value, failure))

    def _deliver(self, exchange: Exchange, value: Any, failure: OllamaError | None) -> None:
        if exchange.closed or exchange.answered:
            return
        if self._when_thawed(lambda: self._deliver(exchange, value, failure)):
            return
        exchange.answered, exchange.value, exchange.failure = True, value, failure
        exchange.told(exchange)

    # -- faults and other clients

    def note(self, what: str, *tags: str) -> None:
        """Record something that no switch caused."""
        digests = {r.manifest.digest for r in self.server.machine.runners if _short(r.name) in tags}
        digests |= {self.digest(t) for t in tags if self.server.catalog.find(t)}
        named = frozenset(digests) if tags else None
        self.outside.append(Outside(self._timeline.t, what, named))

    def apply_fault(self, kind: str, args: dict[str, Any]) -> None:
        """Apply a fault of the host, or something that another client does to it."""
        t, tag = self._timeline.t, str(args.get("tag", ""))
        match kind:
            case "evict" | "repull" | "kill_runner":
                self.note(kind, tag)
                self.server.do(read_fault({"kind": kind, "tag": tag}))
                self.note(kind, tag)  # after a repull, the tag points to another digest
            case "restart":
                self.note(kind)
                self.down_until = max(self.down_until, t + args.get("seconds", 0.0))
                self.server.do(read_fault({"kind": kind}))
            case "freeze":
                # Rounded like the timeline: what is postponed until then must not come just before.
                self.frozen_until = max(self.frozen_until, round(t + args["seconds"], 3))
            case "client":
                self._client(tag, args.get("keep_alive"), args.get("tokens", 0))
            case _:
                self.server.faults.add(read_fault({"kind": kind, "times": 1, **args}))
        self._note_unload_requests()
        self._timeline.trace(f"host: {kind} {args}")

    def _client(self, tag: str, keep_alive: object, tokens: int) -> None:
        """Send another client's request. If it loads a model, any other may be evicted (fact
        14)."""
        if self._timeline.t < self.down_until:
            return
        unload = not tokens and keep_alive == 0
        self.note("client", *([tag] if unload else []))
        if not unload:
            self.foreign.add(self.digest(tag))
        embeds = DISK[tag][1] and not unload
        request = simulated.Request(
            tag,
            "embed" if embeds else "generate",
            not tokens and not embeds,
            keep_alive,
            {},
            tokens,
        )
        ask = self.server.submit(request)
        # It may evict a model only later: when it loads, when it ends, or when it fails for lack of
        # memory (fact 15).
        ask.on_change = lambda: self._client_goes_on(ask, tag)
        self.clients.append(ask)

    def _client_goes_on(self, ask: Ask, tag: str) -> None:
        self.note("client", *([tag] if ask.state == "done" else []))
        if ask.keep_alive_s is not None and ask.keep_alive_s <= 0:
            self._note_unload_requests()

    def _note_unload_requests(self) -> None:
        """Remember which models another client has asked to unload: they may leave much later, when
        their requests have ended."""
        leave = [r for r in self.server.machine.runners if r.leaving or r.keep_alive_s <= 0]
        self._asked_to_leave |= {id(r) for r in leave}

    def _note_leavings(self) -> None:
        here = list(self.server.machine.runners)
        for runner in here:
            if runner not in self._here:
                self._note_coming(runner.manifest.digest)
        for runner in self._here:
            if runner not in here:
                digest = runner.manifest.digest
                self.gone_at[digest] = self._timeline.t
                self._timeline.trace(f"host: {_short(runner.name)} is gone")
                if id(runner) in self._asked_to_leave:
                    self.outside.append(Outside(self._timeline.t, "left", frozenset({digest})))
        self._here = here

    def _note_coming(self, digest: str) -> None:
        for exchange in self._open:
            ask = exchange.ask
            if ask is None or ask.manifest.digest != digest or exchange.closed:
                continue
            if exchange.stood_still():
                self.late_at[digest] = self._timeline.t

    def _note_expiries(self) -> None:
        """Record, just before time moves on, which models leave because their keep-alive has run
        out."""
        for runner in self.server.machine.runners:
            if runner.timer_at <= self.server.next_event_at() and not runner.leaving:
                at = max(runner.timer_at, self._timeline.t)
                self.outside.append(Outside(at, "expired", frozenset({runner.manifest.digest})))

    def clear_faults(self) -> None:
        """Clear all faults, so that the server listens again."""
        self.server.faults.clear()
        self.down_until = self.frozen_until = 0.0

    @property
    def busy(self) -> bool:
        return any(not a.ended for a in self.clients)


def _short(name: str) -> str:
    return name.removesuffix(":latest")


def _timeout_s(effect: Effect) -> float:
    return effect.timeout_s if isinstance(effect, Load | Warm) else QUICK_TIMEOUT_S


def _request(spec: Spec, kind: str, empty: bool, tokens: int | None = None) -> simulated.Request:
    empty = empty and kind == "generate"
    keep_alive = wire_keep_alive(spec.keep_alive)
    return simulated.Request(spec.tag, kind, empty, keep_alive, spec.runner_options, tokens)


def refusal(text: str, status: int) -> OllamaError:
    """Return the error that the client makes of the server's answer."""
    said = f"Ollama answered {status}: {text}"
    if status == 404 and "not found" in text:
        return ModelMissing(said, status, text)
    return (ServerBusy if status == 503 else Refused)(said, status, text)
