"""What every entrance calls: plan a switch, ask for one, cancel one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from switcher.audit.ledger import Actor
from switcher.domain.clock import Clock, system
from switcher.domain.errors import BadRequest, NotFound, PlanBlocked, PlanOutdated
from switcher.domain.model_names import ModelName
from switcher.domain.plans import Plan, make_plan
from switcher.domain.published_name import PublishedName
from switcher.domain.specs import Spec, check_keep_alive, check_tag
from switcher.domain.states import Strategy
from switcher.models import Host, ModelProfile, SwitchEvent
from switcher.ollama.client import Client
from switcher.queries.hosts import find_host, find_named
from switcher.records import switches
from switcher.records.switches import NewSwitch
from switcher.switching import ghosts, wake
from switcher.switching.ghosts import Freed as Freed
from switcher.switching.jobs import situation, spec_of

MAX_KEY = 200  # characters of an Idempotency-Key


@dataclass(frozen=True, slots=True)
class SwitchRequest:
    """What somebody wants, as an entrance read it; nothing of it is checked yet.

    One of `model` and `profile` is needed. A model without a profile uses the profile of that
    tag if there is just one, else the host's defaults.
    """

    model: str = ""
    profile: str = ""
    host: str = ""  # empty: the default host
    reason: str = ""
    strategy: str = ""  # empty: auto
    keep_alive: str = ""  # empty: the profile's


@dataclass(frozen=True, slots=True)
class ResolvedRequest:
    """A wish that names things that exist."""

    host: Host
    spec: Spec
    profile_id: int | None
    strategy: Strategy
    reason: str


def check(wish: SwitchRequest) -> ResolvedRequest:
    """Turn a wish into host, spec and strategy. Raises BadRequest (with its field), NotFound."""
    host = find_host(wish.host)
    profile = _find_profile(wish)
    if profile is not None:
        spec = spec_of(profile)
    else:
        spec = Spec(profile="", tag=check_tag(wish.model), keep_alive=host.keep_alive)
    _check_no_alias(host, spec.name)
    if wish.keep_alive:
        spec = replace(spec, keep_alive=check_keep_alive(wish.keep_alive))
    _check_reason(wish.reason)
    return ResolvedRequest(
        host, spec, profile.pk if profile else None, _strategy(wish.strategy), wish.reason.strip()
    )


def _check_no_alias(host: Host, model: ModelName) -> None:
    """The published name is the active model's, whatever that is: nothing to switch to; nor is
    the one before it, which is about to go."""
    published = PublishedName.of(host)
    if model in {published.wanted, published.name}:
        raise BadRequest(
            f"{model} is the name by which {host.name} publishes its active model. "
            "Name the model itself.",
            "model",
        )


def plan(wish: SwitchRequest) -> Plan:
    """The plan, from a fresh reading of the host. Does nothing. Raises OllamaError kinds too."""
    return plan_checked(check(wish))


def plan_checked(want: ResolvedRequest) -> Plan:
    """The plan of a checked wish, from a fresh reading of the host."""
    ollama = Client(want.host.base_url)
    try:
        resident, installed = ollama.resident(), ollama.installed()
    finally:
        ollama.close()
    return make_plan(situation(want.host, want.spec, want.strategy, resident, installed))


def request_switch(
    wish: SwitchRequest,
    actor: Actor,
    *,
    plan_token: str = "",
    idempotency_key: str = "",
    clock: Clock = system,
) -> tuple[SwitchEvent, bool]:
    """Record the request and wake the worker. Returns the switch, and whether it is new.

    With `plan_token` it runs only while the host is as it was when that plan was made: else
    PlanOutdated, and nothing was done. Raises SwitchRunning where one is open on the host.
    """
    want = check(wish)
    _check_key(idempotency_key)
    if plan_token:
        _check_plan_holds(want, plan_token)
    new = NewSwitch(
        host_id=want.host.pk,
        spec=want.spec,
        profile_id=want.profile_id,
        strategy=want.strategy,
        actor=actor,
        reason=want.reason,
        plan_token=plan_token,
        idempotency_key=idempotency_key,
        keep_alive_named=bool(wish.keep_alive),
    )
    row, made = switches.open_switch(new, clock)
    if made:
        wake.worker()
    return row, made


def cancel(switch_id: int, actor: Actor) -> SwitchEvent:
    """Ask for the cancelling of an open switch; the worker restores the old state."""
    row = switches.ask_cancel(switch_id, actor)
    wake.worker()
    return row


def free_ghost(host: str, digest: str, actor: Actor, clock: Clock = system) -> Freed:
    """Unload a resident model that its own name does not reach any more, or whose time is over.
    See `ghosts.free`; an empty host is the default one."""
    return ghosts.free(find_host(host), digest, actor, clock)


def _check_plan_holds(want: ResolvedRequest, token: str) -> None:
    fresh = plan_checked(want)
    if fresh.blocked or fresh.token != token:
        # The second of two clicks may find what the first one has changed: that one runs.
        switches.check_not_running(want.host.pk)
    if fresh.blocked:
        raise PlanBlocked(fresh.blocked)
    if fresh.token != token:
        raise PlanOutdated(
            f"Nothing was switched. {want.host.name} changed after the plan was made."
        )


def _find_profile(wish: SwitchRequest) -> ModelProfile | None:
    if wish.profile:
        profile = find_named(ModelProfile.objects.all(), wish.profile)
        if profile is None:
            raise NotFound(f"There is no profile named {wish.profile!r}.")
        if wish.model and ModelName.parse(check_tag(wish.model)) != ModelName.parse(profile.tag):
            raise BadRequest(
                f"Profile {profile.name} is of {profile.tag}, not of {wish.model}.", "model"
            )
        return profile
    if not wish.model:
        raise BadRequest("Name a model or a profile.", "model")
    name = ModelName.parse(check_tag(wish.model))
    rows = [p for p in ModelProfile.objects.all() if ModelName.parse(p.tag) == name]
    return rows[0] if len(rows) == 1 else None


def _check_key(key: str) -> None:
    """Cut short, two keys could become one, and the second request get the first one's switch."""
    if len(key) > MAX_KEY:
        raise BadRequest(f"An Idempotency-Key has at most {MAX_KEY} characters.")
    if not key.isprintable():
        raise BadRequest("An Idempotency-Key is plain text.")


def _check_reason(text: str) -> None:
    if len(text) > 500:
        raise BadRequest("A reason has at most 500 characters.", "reason")
    if not all(c.isprintable() or c.isspace() for c in text):
        raise BadRequest("A reason is plain text.", "reason")


def _strategy(text: str) -> Strategy:
    try:
        return Strategy(text or Strategy.AUTO)
    except ValueError:
        raise BadRequest("The strategy is auto, overlap or swap.", "strategy") from None
