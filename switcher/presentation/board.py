"""The board: its headline, its hosts, its switches, and the models to choose from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from switcher.domain.model_names import ModelName
from switcher.domain.observed import Observation
from switcher.presentation.hosts import HostView, present_host
from switcher.presentation.switches import SwitchLine, SwitchView, line_of, view_of
from switcher.queries.hosts import RECENT_SWITCHES, BoardFacts, board_facts

# A switch that has just ended stays on the board this long, so that people see how it ended.
SHOW_ENDED_S = 60.0


@dataclass(frozen=True, slots=True)
class Choice:
    """A model to switch to. `value` is the name of a profile, or `=` and the name of a model
    without one."""

    value: str
    label: str
    model: str


@dataclass(frozen=True, slots=True)
class Board:
    """The content of the board. `panels` are the open switches, then those that have just ended;
    `alarms` are sentences about what is wrong with the audit trail, its key or its sinks."""

    now: datetime
    hosts: tuple[HostView, ...]
    panels: tuple[SwitchView, ...]
    recent_switches: tuple[SwitchLine, ...]
    profiles: tuple[Choice, ...]
    models: tuple[Choice, ...]
    alarms: tuple[str, ...]

    @property
    def answering(self) -> int:
        return sum(host.answers for host in self.hosts)

    @property
    def running(self) -> int:
        return sum(panel.is_open for panel in self.panels)

    @property
    def need_attention(self) -> tuple[str, ...]:
        return tuple(host.name for host in self.hosts if host.needs_attention)


def board(
    now: datetime,
    fresh: Mapping[int, Observation] | None = None,
    alarms: tuple[str, ...] = (),
) -> Board:
    """Read and present the board. `fresh` are this process's own readings by host id."""
    facts = board_facts(fresh)
    installed = {i.name: i.kind for host in facts.hosts for i in host.reading.installed}
    profiled = {ModelName.parse(tag) for _, tag in facts.profiles}
    return Board(
        now=now,
        hosts=tuple(present_host(host, now) for host in facts.hosts),
        panels=_panels(facts, now),
        recent_switches=tuple(line_of(switch, now) for switch in facts.switches[:RECENT_SWITCHES]),
        profiles=_choices(facts.profiles),
        models=_without_profile({m: k for m, k in installed.items() if m not in profiled}),
        alarms=alarms,
    )


def _panels(facts: BoardFacts, now: datetime) -> tuple[SwitchView, ...]:
    """Return the open switches, then the just-ended ones of hosts without an open switch."""
    idle = {host.last_ended.id for host in facts.hosts if host.last_ended and not host.running}
    since = now - timedelta(seconds=SHOW_ENDED_S)
    shown = [s for s in facts.switches if s.is_open]
    shown += [s for s in facts.switches if s.id in idle and s.ended_at and s.ended_at > since]
    return tuple(view_of(switch, now) for switch in shown)


def _choices(profiles: Iterable[tuple[str, str]]) -> tuple[Choice, ...]:
    """Return profiles named by their models, or by their own names if several share a model."""
    models = [(name, ModelName.parse(tag)) for name, tag in profiles]
    counts = Counter(model for _, model in models)
    return tuple(
        Choice(name, f"{model} · {name}" if counts[model] > 1 else model.short, model.short)
        for name, model in models
    )


def _without_profile(models: Mapping[ModelName, str]) -> tuple[Choice, ...]:
    """Return installed models as choices, with their kinds if they are not ordinary."""
    kinds = sorted((model.short, kind) for model, kind in models.items())
    return tuple(
        Choice(f"={name}", f"{name} · {kind}" if kind else name, name) for name, kind in kinds
    )
