"""Finds the name by which a request reaches the content that a switch verified.

Anybody can point a model's own name at other content, or delete it, while the model is active
(facts 23, 24). A request by that name would then load what nobody activated, or send its prompt to
another machine. So requests name the copy that Switchboard keeps of the model: it shares the
model's runner (fact 21), and nobody has a reason to change it.

Without a copy, the host is asked what its names mean now. That takes a call for each request, and a
name that changes in the milliseconds after it is not noticed. The upkeep makes the copy again
within seconds.

If no switch has verified a model, its name means what the host has under it, but a cloud model only
if the host's settings allow that.
"""

from __future__ import annotations

from dataclasses import replace

from switcher.domain.model_names import ModelName
from switcher.domain.observed import is_cloud
from switcher.gateway.errors import GatewayError
from switcher.gateway.host_calls import host_rows
from switcher.gateway.model_selection import prompt_would_leave
from switcher.gateway.renaming import ModelRenamer
from switcher.ollama.lists import parse_installed
from switcher.queries.gates import ModelChoice, Route


async def verified_name(route: Route, choice: ModelChoice, by_copy: bool = True) -> str:
    """Return the name to ask the host for. `by_copy` is false if the copy was found missing.

    Raises GatewayError 503 if no name reaches the verified content, 403 if the prompt would leave
    the host, and 502 or 504.
    """
    if choice.copy and by_copy:
        return choice.copy
    if not choice.digest:
        if not route.allows_cloud:
            await _check_stays_here(route, choice)
        return choice.model
    rows = await host_rows(route, "/api/tags")
    listed = (name for name, row in rows.items() if row.get("digest") == choice.digest)
    # A request by the name of a cloud model would leave, whatever is on the disk (fact 20).
    names = [name for name in listed if name.is_valid and not name.is_cloud]
    if ModelName.parse(choice.model) in names:
        return choice.model
    if names:
        return names[0].full
    raise _not_verified(route, choice, ModelName.parse(choice.model) in rows)


def _not_verified(route: Route, choice: ModelChoice, is_listed: bool) -> GatewayError:
    what = "means other content now" if is_listed else "was deleted"
    advice = "Switch to a model again."
    if route.active is not None and choice.spec.name not in route.active_names:
        advice = f"Switch to {route.active.model} again to load it as it is now."
    text = (
        f"{choice.model} {what} on {route.host}, and no other name reaches the content that was "
        f"verified. {advice}"
    )
    return GatewayError(503, "not_verified", text, "model")


async def _check_stays_here(route: Route, choice: ModelChoice) -> None:
    """Refuse a name that somebody has pointed at a cloud model. Raises GatewayError 403, and 502 or
    504 if the host does not tell."""
    name = ModelName.parse(choice.model)
    if route.active is not None and name == route.active.name and not name.is_cloud:
        return  # a switch has verified it
    row = (await host_rows(route, "/api/tags")).get(name)
    try:
        leaves = is_cloud(name, parse_installed(row) if row is not None else None)
    except (KeyError, TypeError, ValueError) as exc:
        text = f"{route.host} does not tell where {choice.model} runs."
        raise GatewayError(502, "upstream_failed", text) from exc
    if leaves:
        raise prompt_would_leave(route, choice.model)


async def as_sent(route: Route, choice: ModelChoice, by_copy: bool = True) -> ModelChoice:
    """Return the choice under the name to ask the host for. Raises what `verified_name` raises."""
    return replace(choice, model=await verified_name(route, choice, by_copy))


def renamer_for(sent: ModelChoice, shown: ModelChoice) -> ModelRenamer | None:
    """Return what shows the client the model's own name; None if the host was asked by it."""
    return ModelRenamer(sent.model, shown.model) if sent.model != shown.model else None
