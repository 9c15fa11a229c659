"""Which model a client gets, by the host's policy; and how it is told that there is none."""

from __future__ import annotations

from switcher.domain.observed import full_name
from switcher.gateway.answers import GatewayError
from switcher.queries.gates import Choice, Route
from switcher.queries.keys import KeyFacts

NOWHERE = (
    "No model is active on {host}. Choose one on the board, or: "
    'curl -X POST …/ollama/models/switch -d \'{{"model": "…"}}\''
)


def choose(route: Route, named: object, key: KeyFacts | None = None) -> Choice:
    """The model for a request that names `named`: see Route.meant. Raises Refusal, also where the
    key is not for it."""
    found = route.meant(full_name(named) if isinstance(named, str) and named else "")
    if found is None:
        raise _none(route, named, key)
    if key is not None and not key.is_for_profile(found.spec.profile):
        text = f"Key {key.name} is not for {found.model}, which is what this host answers with."
        raise GatewayError(403, "not_allowed", text, "model")
    return found


def served(route: Route, key: KeyFacts | None) -> list[tuple[str, str]]:
    """Those of the names that are served here, each with its tag, by which the key gets a model."""
    if key is None or key.all_profiles:
        return route.served
    return [(name, tag) for name, tag in route.served if _opens(key, route.meant(full_name(name)))]


def _opens(key: KeyFacts, choice: Choice | None) -> bool:
    return choice is not None and key.is_for_profile(choice.spec.profile)


def _none(route: Route, named: object, key: KeyFacts | None) -> GatewayError:
    if route.policy != "strict":
        return GatewayError(503, "no_active_model", NOWHERE.format(host=route.host))
    wanted = named if isinstance(named, str) and named else "that name"
    names = ", ".join(name for name, _ in served(route, key)) or "none now"
    text = f"There is no model {wanted!r} here. {route.host} serves: {names}."
    return GatewayError(404, "model_not_found", text, "model")
