"""What every entry point calls: plan, request or cancel a switch, free a ghost."""

from __future__ import annotations

from dataclasses import dataclass, replace

from switcher.audit.ledger import Actor
from switcher.domain.clock import Clock, system
from switcher.domain.errors import BadRequest, NotAllowed, NotFound, PlanBlocked, PlanOutdated
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Resident, find_installed
from switcher.domain.plans import Plan
from switcher.domain.published_name import PublishedName
from switcher.domain.specs import (
    Spec,
    check_keep_alive,
    check_keeps_active,
    check_num_ctx,
    check_tag,
)
from switcher.domain.states import Strategy
from switcher.models import Host, ModelProfile, SwitchEvent
from switcher.ollama.client import Client, Ollama
from switcher.queries.hosts import find_host, find_named
from switcher.queries.keys import KeyFacts
from switcher.queries.readings import last_reading
from switcher.records import switches
from switcher.records.memory import learn_sizes
from switcher.records.switches import ResolvedRequest
from switcher.switching import ghosts, unloading, wake, waking
from switcher.switching.ghosts import FreedGhost
from switcher.switching.learning import learn_facts
from switcher.switching.left_over_copies import RemovedCopies, remove_left_over
from switcher.switching.planning import plan_switch
from switcher.switching.unloading import Unloaded, UnloadPlan

MAX_KEY = 200  # characters of an Idempotency-Key
MAX_REASON = 500


@dataclass(frozen=True, slots=True)
class SwitchRequest:
    """A request for a switch as an entry point parsed it; nothing in it is checked yet.

    It names a model, a profile or both. A model without a profile uses the profile of that model if
    there is exactly one, else the host's defaults; `profile` None always means the latter.
    """

    model: str = ""
    profile: str | None = ""
    host: str = ""  # empty: the default host
    reason: str = ""
    strategy: str = ""  # empty: auto
    keep_alive: str = ""  # empty: the profile's
    num_ctx: str = ""  # empty: the profile's


def resolve(request: SwitchRequest, key: KeyFacts | None = None) -> ResolvedRequest:
    """Look up and check what a request names, and whether the client's key allows it. Raises
    BadRequest (with its field), NotFound, NotAllowed."""
    host = find_host(request.host or (key.only_host if key else ""))
    profile = _find_profile(request)
    if profile is not None:
        spec = Spec.of_profile(profile)
    else:
        tag = _as_listed(host, check_tag(request.model))
        spec = Spec(profile="", tag=tag, keep_alive=host.keep_alive)
    if key is not None:
        _check_bounds(key, host, spec)
    _check_not_published_name(host, spec.name)
    if request.keep_alive:
        spec = replace(spec, keep_alive=check_keep_alive(request.keep_alive))
    if request.num_ctx:
        spec = replace(spec, options=spec.options | check_num_ctx(request.num_ctx))
    check_keeps_active(spec.keep_alive, _keep_alive_source(request, host, profile))
    _check_reason(request.reason)
    return ResolvedRequest(
        host=host,
        spec=spec,
        profile_id=profile.pk if profile else None,
        strategy=_parse_strategy(request.strategy),
        reason=request.reason.strip(),
        names_keep_alive=bool(request.keep_alive),
        names_num_ctx=bool(request.num_ctx),
    )


def plan(request: SwitchRequest, key: KeyFacts | None = None) -> Plan:
    """Plan a switch from a fresh reading of the host, and change nothing. Raises OllamaError
    kinds too."""
    return _plan(resolve(request, key))


def request_switch(
    request: SwitchRequest,
    actor: Actor,
    *,
    plan_token: str = "",
    idempotency_key: str = "",
    key: KeyFacts | None = None,
    clock: Clock = system,
) -> tuple[SwitchEvent, bool]:
    """Record the request and wake the worker. Return the switch, and whether it is new.

    `key` is the client's, which may bind it to hosts and profiles.

    With `plan_token`, raises PlanOutdated if the host has changed since that plan was made. Raises
    SwitchRunning if a switch is open on the host.
    """
    resolved = resolve(request, key)
    _check_key(idempotency_key)
    if plan_token:
        _check_plan_holds(resolved, plan_token)
    row, made = switches.open_switch(
        resolved, actor, plan_token=plan_token, idempotency_key=idempotency_key, clock=clock
    )
    if made:
        wake.worker()
    return row, made


def cancel(switch_id: int, actor: Actor) -> SwitchEvent:
    """Request that an open switch be cancelled; the worker restores the old models."""
    row = switches.request_cancel(switch_id, actor)
    wake.worker()
    return row


def free_ghost(host: str, digest: str, actor: Actor, clock: Clock = system) -> FreedGhost:
    """Unload a ghost; see `ghosts.free`. An empty host is the default one."""
    return ghosts.free(find_host(host), digest, actor, clock)


def wake_host(host: str, actor: Actor, clock: Clock = system) -> None:
    """Send a host its Wake-on-LAN packet; see `waking.wake_host`."""
    waking.wake_host(find_host(host), actor, clock)


def remove_left_over_copies(host: str, actor: Actor, clock: Clock = system) -> RemovedCopies:
    """Remove the model copies that others have left; see `left_over_copies.remove_left_over`."""
    return remove_left_over(find_host(host), actor, clock)


def _plan(request: ResolvedRequest) -> Plan:
    ollama = Client(request.host.server)
    try:
        resident, installed = ollama.resident(), ollama.installed()
        _learn(request, ollama, resident, installed)
    finally:
        ollama.close()
    return plan_switch(request.host, request.spec, request.strategy, resident, installed)


def plan_unload(host: str) -> UnloadPlan:
    """Plan to unload the active model; see `unloading.plan_unload`."""
    return unloading.plan_unload(find_host(host))


def unload_active(host: str, actor: Actor, reason: str = "", clock: Clock = system) -> Unloaded:
    """Unload the active model without a replacement; see `unloading.unload_active`."""
    _check_reason(reason)
    return unloading.unload_active(find_host(host), actor, reason.strip(), clock)


def _learn(
    request: ResolvedRequest,
    ollama: Ollama,
    resident: tuple[Resident, ...],
    installed: tuple[Installed, ...],
) -> None:
    """Keep what this reading tells about memory, and ask for what the plan needs."""
    learn_sizes(request.host.pk, resident, system.now())
    target = find_installed(installed, request.spec.name)
    if target is not None:
        learn_facts(ollama, [target])


def _check_plan_holds(request: ResolvedRequest, token: str) -> None:
    fresh = _plan(request)
    if fresh.blocked or fresh.token != token:
        # The second of two clicks may find what the first one has changed: name that switch.
        switches.check_not_running(request.host.pk)
    if fresh.blocked:
        raise PlanBlocked(fresh.blocked)
    if fresh.token != token:
        raise PlanOutdated(
            f"Nothing was switched. {request.host.name} changed after the plan was made."
        )


def _find_profile(request: SwitchRequest) -> ModelProfile | None:
    model = ModelName.parse(check_tag(request.model)) if request.model else None
    if request.profile is None and model is not None:
        return None
    if request.profile:
        profile = find_named(ModelProfile.objects.all(), request.profile)
        if profile is None:
            raise NotFound(f"There is no profile named {request.profile!r}.")
        if model not in (None, ModelName.parse(profile.tag)):
            raise BadRequest(
                f"Profile {profile.name} is of {profile.tag}, not of {request.model}.", "model"
            )
        return profile
    if model is None:
        raise BadRequest("Name a model or a profile.", "model")
    rows = [p for p in ModelProfile.objects.all() if ModelName.parse(p.tag) == model]
    return rows[0] if len(rows) == 1 else None


def _check_bounds(key: KeyFacts, host: Host, spec: Spec) -> None:
    if not key.is_for_host(host.name):
        raise NotAllowed(f"Key {key.name} is not valid for {host.name}.")
    if not key.is_for_profile(spec.profile):
        what = f"profile {spec.profile}" if spec.profile else f"{spec.name} without a profile"
        raise NotAllowed(f"Key {key.name} is not valid for {what}.")


def _as_listed(host: Host, tag: str) -> str:
    """Return a model's name in the case in which the host was last seen to list it."""
    seen, name = last_reading(host.pk), ModelName.parse(tag)
    row = find_installed(seen.installed, name) if seen else None
    if row is None:
        return tag
    return row.name.full if tag.lower() == name.key else row.name.short


def _keep_alive_source(request: SwitchRequest, host: Host, profile: ModelProfile | None) -> str:
    if request.keep_alive:
        return "It comes from the request."
    if profile is not None:
        return f"It comes from profile {profile.name}."
    return f"It comes from {host.name}'s settings."


def _check_not_published_name(host: Host, model: ModelName) -> None:
    """Refuse the published name, which follows the active model, and a former published name that
    is still to be removed."""
    published = PublishedName.of(host)
    if model in (published.wanted, published.name):
        raise BadRequest(
            f"{model} is the name by which {host.name} publishes its active model. "
            "Name the model itself.",
            "model",
        )


def _check_key(key: str) -> None:
    """Refuse a key that is not plain text or too long: two keys that are cut short could become
    equal."""
    if len(key) > MAX_KEY:
        raise BadRequest(f"An Idempotency-Key has at most {MAX_KEY} characters.")
    if not key.isprintable():
        raise BadRequest("An Idempotency-Key is plain text.")


def _check_reason(text: str) -> None:
    if len(text) > MAX_REASON:
        raise BadRequest(f"A reason has at most {MAX_REASON} characters.", "reason")
    if not all(c.isprintable() or c.isspace() for c in text):
        raise BadRequest("A reason is plain text.", "reason")


def _parse_strategy(text: str) -> Strategy:
    try:
        return Strategy(text or Strategy.AUTO)
    except ValueError:
        raise BadRequest("The strategy is auto, overlap or swap.", "strategy") from None
