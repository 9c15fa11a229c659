"""Selects the model that a client gets, by the host's gateway policy."""

from __future__ import annotations

from switcher.domain.model_names import ModelName
from switcher.gateway.errors import GatewayError
from switcher.queries.gates import ModelChoice, Route
from switcher.queries.keys import KeyFacts

NO_ACTIVE_MODEL = (
    "No model is active on {host}. Choose one on the board, or: "
    'curl -X POST …/ollama/models/switch -d \'{{"model": "…"}}\''
)


def select_model(route: Route, requested: object, key: KeyFacts | None = None) -> ModelChoice:
    """Return the model for a request whose `model` is `requested`; see Route.resolve.

    Raises GatewayError 404 or 503 if there is none, 403 if the key is not valid for it.
    """
    name = requested if isinstance(requested, str) else ""
    choice = route.resolve(ModelName.of_request(name))
    if choice is None:
        raise _no_model(route, name, key)
    if ModelName.parse(choice.model).is_cloud and not route.allows_cloud:
        raise prompt_would_leave(route, choice.model)
    if key is not None and not key.is_for_profile(choice.spec.profile):
        text = (
            f"Key {key.name} is not valid for {choice.model}, the model that answers on this host."
        )
        raise GatewayError(403, "not_allowed", text, "model")
    return choice


def prompt_would_leave(route: Route, model: str) -> GatewayError:
    """Return the error for a cloud model on a host whose settings do not allow any."""
    text = (
        f"{model} is a cloud model, and the settings of {route.host} do not allow prompts to leave "
        "it."
    )
    return GatewayError(403, "not_allowed", text, "model")


def served_names(route: Route, key: KeyFacts | None) -> list[tuple[str, str]]:
    """Return the names by which the key can use a model on this host, each with the model's tag."""
    if key is None or key.all_profiles:
        return route.served_names
    return [(name, tag) for name, tag in route.served_names if _may_use(key, route, name)]


def _may_use(key: KeyFacts, route: Route, name: str) -> bool:
    choice = route.resolve(ModelName.parse(name))
    return choice is not None and key.is_for_profile(choice.spec.profile)


def _no_model(route: Route, name: str, key: KeyFacts | None) -> GatewayError:
    if route.policy != "strict":
        return GatewayError(503, "no_active_model", NO_ACTIVE_MODEL.format(host=route.host))
    names = ", ".join(name for name, _ in served_names(route, key)) or "none now"
    problem = f"There is no model {name!r} here." if name else "The request names no model."
    text = f"{problem} {route.host} serves: {names}."
    return GatewayError(404, "model_not_found", text, "model")
