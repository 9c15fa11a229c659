"""Which model a client gets, by the host's policy; and how it is told that there is none."""

from __future__ import annotations

from switcher.gateway.answers import Refusal
from switcher.observed import full_name
from switcher.queries.gates import Choice, Route

NOWHERE = (
    "No model is active on {host}. Choose one on the board, or: "
    'curl -X POST …/ollama/models/switch -d \'{{"model": "…"}}\''
)


def choose(route: Route, named: object) -> Choice:
    """The model for a request that names `named`: see Route.meant. Raises Refusal."""
    found = route.meant(full_name(named) if isinstance(named, str) and named else "")
    if found is not None:
        return found
    if route.policy != "strict":
        raise Refusal(503, "no_active_model", NOWHERE.format(host=route.host))
    wanted = named if isinstance(named, str) and named else "that name"
    served = ", ".join(name for name, _ in route.served) or "none now"
    text = f"There is no model {wanted!r} here. {route.host} serves: {served}."
    raise Refusal(404, "model_not_found", text, "model")
