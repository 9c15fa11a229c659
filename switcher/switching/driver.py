"""Performs the effects of a switch against a real server, under the host's lease.

Rule 3: it looks at its lease just before each call, a keeper renews it while a call waits, and a
call is cut when that fails, so that no call outlasts the lease.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from switcher.domain.clock import Clock
from switcher.domain.model_names import ModelName
from switcher.ollama.calls import Call
from switcher.ollama.client import Ollama
from switcher.ollama.errors import CallCut, ModelMissing, OllamaError, Refused
from switcher.queries.gates import gate_status
from switcher.records.switches import ClaimedSwitch
from switcher.switching.effects import (
    Cancelled,
    Copy,
    Delete,
    Effect,
    InFlight,
    ListInstalled,
    ListResident,
    Load,
    Pause,
    ShowModel,
    Steps,
    Unload,
    Warm,
)
from switcher.switching.lease_keeper import CANCELLABLE, LeaseKeeper


class Driver:
    """Runs the steps of one switch. One for each run of each switch."""

    def __init__(
        self, held: ClaimedSwitch, ollama: Ollama, keeper: LeaseKeeper, clock: Clock
    ) -> None:
        self._held = held
        self._ollama = ollama
        self._keeper = keeper
        self._clock = clock

    def run(self, steps: Steps[None]) -> None:
        """To the end of the steps. Raises FenceLost or HandedOver where it must stop before."""
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
                self._check()  # says why it was cut: lease lost, handed over, cancelled
                raise

    def _check(self) -> None:
        self._keeper.check()
        if self._keeper.cancelled_by and self._held.state in CANCELLABLE:
            raise Cancelled(self._keeper.cancelled_by)

    def _do(self, effect: Effect, call: Call) -> Any:
        match effect:
            case ListResident():
                return self._ollama.resident(call)
            case ListInstalled():
                return self._ollama.installed(call)
            case ShowModel(name):
                return self._ollama.capabilities(name.full, call)
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
            case InFlight():
                return gate_status(self._held.host_id, self._held.switch_id)
            case Pause(seconds):
                return self._clock.sleep(seconds)

    def _unload_all(self, names: tuple[ModelName, ...], call: Call) -> dict[ModelName, str]:
        """All at once; what the server refused comes back as text by name."""
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
            pass  # somebody else was first

    def _unload(self, name: ModelName, call: Call) -> str:
        try:
            self._ollama.unload(name.full, call)
        except ModelMissing as exc:
            # Fact 24: gone from the disk, it stays loaded and no name reaches it.
            return exc.text
        except Refused as exc:
            return exc.text
        return ""
