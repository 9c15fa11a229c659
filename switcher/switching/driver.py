"""Performs the effects of a switch against a real server, under the host's lease.

The lease is checked just before each call, the lease keeper renews it while a call waits, and the
call is cut if that fails: no call outlasts the lease (rule 3).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from switcher.domain.clock import Clock
from switcher.domain.model_names import ModelName
from switcher.ollama.calls import Call
from switcher.ollama.client import Ollama
from switcher.ollama.errors import CallCut, ModelMissing, OllamaError, Refused
from switcher.ollama.waking import send_wake_packet
from switcher.queries.gates import gate_status
from switcher.records.claimed_switch import ClaimedSwitch
from switcher.switching.effects import (
    Copy,
    Delete,
    DescribeModel,
    Effect,
    ListInstalled,
    ListResident,
    Load,
    Pause,
    ReadGate,
    ShowModel,
    Steps,
    Unload,
    Wake,
    Warm,
)
from switcher.switching.errors import Cancelled
from switcher.switching.lease_keeper import CANCELLABLE, LeaseKeeper


class Driver:
    """Runs the steps of one switch, once."""

    def __init__(
        self, switch: ClaimedSwitch, ollama: Ollama, keeper: LeaseKeeper, clock: Clock
    ) -> None:
        self._switch = switch
        self._ollama = ollama
        self._keeper = keeper
        self._clock = clock

    def run(self, steps: Steps[None]) -> None:
        """Run the steps to their end. Raises FenceLost or ShuttingDown if it has to stop
        earlier."""
        value: Any = None
        failure: Exception | None = None
        try:
            while True:
                effect = steps.throw(failure) if failure is not None else steps.send(value)
                value, failure = None, None
                try:
                    value = self._perform(effect)
                except (OllamaError, Cancelled) as exc:
                    failure = exc
        except StopIteration:
            return
        finally:
            steps.close()

    def _perform(self, effect: Effect) -> Any:
        self._check()
        call = Call()
        with self._keeper.watching(call):
            try:
                return self._do(effect, call)
            except CallCut:
                self._check()  # raises why it was cut
                raise

    def _check(self) -> None:
        self._keeper.check()
        if self._keeper.cancelled_by and self._switch.state in CANCELLABLE:
            raise Cancelled(self._keeper.cancelled_by)

    def _do(self, effect: Effect, call: Call) -> Any:
        match effect:
            case ListResident():
                return self._ollama.resident(call)
            case ListInstalled():
                return self._ollama.installed(call)
            case ShowModel(name):
                return self._ollama.capabilities(name.full, call)
            case DescribeModel(name):
                return self._ollama.facts(name.full, call)
            case Load(spec, embeds, timeout_s):
                return self._ollama.load(spec, embeds, timeout_s, call)
            case Warm(spec, warmup, embeds, timeout_s):
                return self._ollama.warm(spec, warmup, embeds, timeout_s, call)
            case Unload(names):
                return self._unload_all(names, call)
            case Copy(source, destination):
                return self._ollama.copy(source.full, destination.full, call)
            case Delete(name):
                return self._delete(name, call)
            case ReadGate():
                return gate_status(self._switch.host_id, self._switch.id)
            case Wake(mac):
                return send_wake_packet(mac)
            case Pause(seconds):
                return self._clock.sleep(seconds)

    def _unload_all(self, names: tuple[ModelName, ...], call: Call) -> dict[ModelName, str]:
        """Request all unloads at once. Return the error text of each refused one, by name."""
        if len(names) == 1:
            texts = [self._unload(names[0], call)]
        else:
            with ThreadPoolExecutor(max_workers=min(8, len(names))) as pool:
                texts = list(pool.map(lambda name: self._unload(name, call), names))
        return {name: text for name, text in zip(names, texts, strict=True) if text}

    def _delete(self, name: ModelName, call: Call) -> None:
        try:
            self._ollama.delete(name.full, call)
        except ModelMissing:
            pass  # somebody else deleted it

    def _unload(self, name: ModelName, call: Call) -> str:
        try:
            self._ollama.unload(name.full, call)
        except ModelMissing as exc:
            # Fact 24: deleted while it was loaded, it stays, and no name reaches it.
            return exc.text
        except Refused as exc:
            return exc.text
        return ""
