"""A host in memory that behaves like the facts say, for tests of the order of steps."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from switcher.domain.memory import ModelFacts
from switcher.domain.model_copies import is_copy_name
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident
from switcher.domain.specs import Spec, WarmUp
from switcher.ollama.calls import Call
from switcher.ollama.client import Warmed
from switcher.ollama.errors import CallCut, ModelMissing, OllamaError
from tests.until import until

GB = 1_000_000_000


def full(name: str) -> str:
    return ModelName.parse(name).full


@dataclass
class FakeHost:
    """Loads what fits, evicts nothing by itself. `fail` maps an act such as `load mid-b` to the
    error it raises (once for each entry)."""

    models: dict[str, Installed] = field(default_factory=dict)
    loaded: dict[str, Resident] = field(default_factory=dict)
    fail: dict[str, list[OllamaError]] = field(default_factory=dict)
    journal: list[str] = field(default_factory=list)
    before_act: Callable[[str], None] = lambda act: None
    after_act: Callable[[str], None] = lambda act: None
    hangs: set[str] = field(default_factory=set)  # acts that last until their call is cut
    hanging: threading.Event = field(default_factory=threading.Event)
    gpu_percent: int = 100
    tokens_per_s: float = 50.0
    sticky: set[str] = field(default_factory=set)  # names that do not leave when asked
    told: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by /api/show alone
    facts_by_name: dict[str, ModelFacts] = field(default_factory=dict)
    most_context: int = 10**6  # that it gives a model
    lingers: int = 0  # readings in which an unloaded model is still listed (fact 1)
    leaving: dict[str, int] = field(default_factory=dict)

    def add(self, tag: str, gb: float = 5, embeds: bool = False) -> Installed:
        name = ModelName.parse(tag)
        row = Installed(
            name, f"sha-{tag}", round(gb * GB), ("embedding",) if embeds else ("completion",)
        )
        self.models[name.full] = row
        return row

    def add_cloud(self, tag: str) -> Installed:
        """Add a cloud model: loads are errors, and it is never resident (fact 28)."""
        row = Installed(ModelName.parse(tag), f"sha-{tag}", 238, ("completion",), "ollama.com")
        self.models[row.name.full] = row
        return row

    def hold(self, tag: str, num_ctx: int = 4096) -> Resident:
        row = self.models[full(tag)]
        here = Resident(
            row.name,
            row.digest,
            row.size,
            row.size * self.gpu_percent // 100,
            min(num_ctx, self.most_context),
            datetime.now(UTC) + timedelta(minutes=30),
        )
        self.loaded[row.digest] = here
        return here

    @property
    def names(self) -> set[str]:
        return {r.name.short for r in self.loaded.values()}

    def _act(self, act: str, call: Call | None = None) -> None:
        self.journal.append(act)
        self.before_act(act)
        if act in self.hangs:
            self._hang(call)
        errors = self.fail.get(act)
        if errors:
            raise errors.pop(0)

    def _hang(self, call: Call | None) -> None:
        """A load that nobody waits for any more is aborted (fact 9)."""
        assert call is not None
        self.hanging.set()
        until(lambda: call.was_cut, what="a cut")
        raise CallCut("The call was ended from here.")

    def resident(self, call: Call | None = None) -> tuple[Resident, ...]:
        self._act("ps", call)
        listed = tuple(self.loaded.values())
        for digest in list(self.leaving):
            self.leaving[digest] -= 1
            if self.leaving[digest] < 0:
                del self.leaving[digest]
                self.loaded.pop(digest, None)
        return listed

    def installed(self, call: Call | None = None) -> tuple[Installed, ...]:
        self._act("tags", call)
        return tuple(self.models.values())

    def capabilities(self, name: str, call: Call | None = None) -> tuple[str, ...]:
        self._act(f"show {name.removesuffix(':latest')}")
        return self.told.get(self._row(name).name.full, ())

    def facts(self, name: str, call: Call | None = None) -> ModelFacts | None:
        return self.facts_by_name.get(full(name))

    def load(self, spec: Spec, embeds: bool, timeout_s: float, call: Call) -> float:
        self._act(f"load {spec.tag}", call)
        row = self._row(spec.tag)
        self.leaving.pop(row.digest, None)  # a request that names a keep-alive revives it (fact 3)
        here = self.loaded.get(row.digest)
        if here is None or spec.num_ctx not in (None, here.context_length):
            self.hold(row.name.full, spec.num_ctx or 4096)
        self.after_act(f"load {spec.tag}")
        return 1.5

    def warm(
        self, spec: Spec, warmup: WarmUp, embeds: bool, timeout_s: float, call: Call
    ) -> Warmed:
        self._act(f"warm {spec.tag}", call)
        row = self._row(spec.tag)
        if row.digest not in self.loaded and not row.is_cloud:
            self.hold(row.name.full, spec.num_ctx or 4096)
        self.after_act(f"warm {spec.tag}")
        return Warmed(0 if embeds else 8, 0.0 if embeds else self.tokens_per_s, 0.2)

    def unload(self, name: str, call: Call | None = None) -> None:
        self._act(f"unload {name.removesuffix(':latest')}")
        row = self._row(name)
        if row.name.full not in self.sticky and row.digest in self.loaded:
            self.leaving[row.digest] = self.lingers
            if not self.lingers:
                del self.leaving[row.digest], self.loaded[row.digest]
        self.after_act(f"unload {name.removesuffix(':latest')}")

    def copy(self, source: str, destination: str, call: Call | None = None) -> None:
        self._act(f"copy {destination}", call)
        row = self._row(source)
        name = ModelName.parse(destination)
        self.models[name.full] = replace(row, name=name)
        self.after_act(f"copy {destination}")

    def delete(self, name: str, call: Call | None = None) -> None:
        self._act(f"delete {name}", call)
        del self.models[self._row(name).name.full]
        self.after_act(f"delete {name}")

    @property
    def model_copies(self) -> set[str]:
        return {i.name.full for i in self.models.values() if is_copy_name(i.name)}

    def repoint(self, tag: str, digest: str) -> None:
        """What a re-pull does: the name means other content, the old runner stays (fact 23)."""
        name = full(tag)
        self.models[name] = replace(self.models[name], digest=digest)

    def _row(self, name: str) -> Installed:
        row = self.models.get(full(name))
        if row is None:
            raise ModelMissing(f"Ollama answered 404: model '{name}' not found", 404, "not found")
        return row

    def close(self) -> None:
        pass
