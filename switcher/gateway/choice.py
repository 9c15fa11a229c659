"""Which model a client gets, by the host's policy."""

from __future__ import annotations

from dataclasses import dataclass

from switcher.gateway.answers import Refusal
from switcher.observed import full_name, short_name
from switcher.queries.gates import Route
from switcher.specs import Spec

NOWHERE = (
    "No model is active on {host}. Choose one on the board, or: "
    'curl -X POST …/ollama/models/switch -d \'{{"model": "…"}}\''
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A model and how it is loaded."""

    model: str
    spec: Spec


def choose(route: Route, named: object) -> Choice:
    """The model for a request that names `named`. Raises Refusal.

    active: the active model, whatever is named. names: a name that stands for a profile gets
    that; all others the active model. strict: only such names and the active model's own.
    """
    name = _full(named)
    if route.policy != "active" and name in route.names:
        spec = route.names[name]
        return Choice(spec.tag, spec)
    active = route.active
    if route.policy == "strict" and (active is None or name not in own_names(route)):
        wanted = named if isinstance(named, str) and named else "that name"
        text = f"There is no model {wanted!r} here. {route.host} serves: {_served(route)}."
        raise Refusal(404, "model_not_found", text, "model")
    if active is None:
        raise Refusal(503, "no_active_model", NOWHERE.format(host=route.host))
    return Choice(active.model, active.spec)


def own_names(route: Route) -> set[str]:
    """By which names the active model goes: its own, and the one that it is published by."""
    names = {full_name(route.active.model)} if route.active else set()
    return names | ({full_name(route.published)} if route.published else set())


def served(route: Route) -> list[tuple[str, str]]:
    """The names that are worth naming here, each with the tag that it means now; the active
    model's first."""
    rows = [(route.active.model, route.active.model)] if route.active else []
    if route.policy != "active":
        rows += [(short_name(name), spec.tag) for name, spec in sorted(route.names.items())]
    return list(dict(rows).items())


def _served(route: Route) -> str:
    return ", ".join(name for name, _ in served(route)) or "none now"


def _full(named: object) -> str:
    return full_name(named) if isinstance(named, str) and named else ""
