"""Finds the name by which a request reaches the content that a switch verified.

Anybody can point a model's own name at other content, or delete it, while the model is active
(facts 23, 24). A request by that name would then load what nobody activated, or send its prompt to
another machine. So requests name the copy that Switchboard keeps of the model: it shares the
model's runner (fact 21), and nobody has a reason to change it.

Without a copy, the host is asked what its names mean now. That takes a call for each request, and a
name that changes in the milliseconds after it is not noticed. The upkeep makes the copy again
within seconds.
"""

from __future__ import annotations

from dataclasses import replace

from switcher.domain.model_names import ModelName
from switcher.gateway.errors import GatewayError
from switcher.gateway.host_calls import host_rows
from switcher.gateway.renaming import ModelRenamer
from switcher.queries.gates import ModelChoice, Route


async def verified_name(route: Route, choice: ModelChoice, by_copy: bool = True) -> str:
    """Return the name to ask the host for. `by_copy` is false if the copy was found missing.

    Raises GatewayError 503 if no name reaches the verified content, and 502 or 504.
    """
    if choice.copy and by_copy:
        return choice.copy
    if not choice.digest:
        await _check_stays_here(route, choice)
        return choice.model  # no switch has loaded it: it is whatever its name points to
    rows = await host_rows(route, "/api/tags")
    listed = (name for name, row in rows.items() if row.get("digest") == choice.digest)
    names = [name for name in listed if name.is_valid]
    if ModelName.parse(choice.model) in names:
        return choice.model
    if names:
        return names[0].full
    what = "means other content now" if ModelName.parse(choice.model) in rows else "was deleted"
    text = (
        f"{choice.model} {what} on {route.host}, and no other name reaches the content that was "
        "activated. Switch to a model again."
    )
    raise GatewayError(503, "not_verified", text, "model")


async def _check_stays_here(route: Route, choice: ModelChoice) -> None:
    """Refuse a name that somebody has pointed at a cloud model, if prompts must not leave the host.
    Raises GatewayError 403."""
    name = ModelName.parse(choice.model)
    if route.allows_cloud or (route.active is not None and name == route.active.name):
        return
    try:
        row = (await host_rows(route, "/api/tags")).get(name)
    except GatewayError:
        return  # the request itself will tell what is wrong with the host
    if row is not None and row.get("remote_host"):
        text = (
            f"{choice.model} is a cloud model now, and the settings of {route.host} do not allow "
            "prompts to leave it."
        )
        raise GatewayError(403, "not_allowed", text, "model")


async def as_sent(route: Route, choice: ModelChoice, by_copy: bool = True) -> ModelChoice:
    """Return the choice under the name to ask the host for. Raises what `verified_name` raises."""
    return replace(choice, model=await verified_name(route, choice, by_copy))


def renamer_for(sent: ModelChoice, shown: ModelChoice) -> ModelRenamer | None:
    """Return what shows the client the model's own name; None if the host was asked by it."""
    return ModelRenamer(sent.model, shown.model) if sent.model != shown.model else None
