"""What the clients of a host get: its gateway policy, aliases and published name."""

from __future__ import annotations

from collections.abc import Mapping

from switcher.audit.ledger import Actor, append, writing
from switcher.domain.clock import Clock, system
from switcher.domain.errors import BadRequest, NotFound
from switcher.domain.model_names import ModelName
from switcher.domain.observed import find_installed, is_cloud
from switcher.domain.published_name import PublishedName, is_taken, taken_text
from switcher.domain.specs import check_published, check_tag
from switcher.models import GatewayName, Host, ModelProfile
from switcher.records.config import installed_on, save_host
from switcher.records.names import check_one_way

POLICIES = ("active", "names", "strict")
MAX_NAMES = 100
TWICE = "{name} is there twice; a name can mean only one profile."


def set_clients(
    host_id: int,
    actor: Actor,
    *,
    policy: str | None = None,
    names: Mapping[str, str] | None = None,
    clock: Clock = system,
) -> None:
    """Set the gateway policy and the aliases of a host; None leaves either as it is. `names` are
    profiles by alias. Raises BadRequest (its field is `policy` or `names`), NotFound."""
    if policy is not None and policy not in POLICIES:
        raise BadRequest("The policy is active, names or strict.", "policy")
    wanted = None if names is None else check_names(names)
    with writing():
        host = _host(host_id)
        if policy is not None:
            host.gateway_policy = policy
            save_host(host, actor, clock)
        if wanted is not None:
            _set_names(host, wanted, actor, clock)


def set_published(host_id: int, name: str, actor: Actor, clock: Clock = system) -> None:
    """Set the name under which the active model is published on the host; an empty name ends that.
    Raises BadRequest (its field is `published_name`), NotFound."""
    try:
        wanted = check_published(name)
    except BadRequest as exc:
        raise BadRequest(exc.text, "published_name") from exc
    with writing():
        host = _host(host_id)
        host.published_name = wanted
        now = PublishedName.of(host)
        if is_taken(now, installed_on(host)):
            raise BadRequest(taken_text(now), "published_name")
        save_host(host, actor, clock)


def put_name(host_id: int, name: str, profile: str, actor: Actor, clock: Clock = system) -> str:
    """Add an alias for a profile, or change it. Return the alias as it is stored."""
    ((short, _),) = check_names({name: profile}).items()
    with writing():
        host = _host(host_id)
        _set_names(host, check_names({**_others(host, short), short: profile}), actor, clock)
    return short


def drop_name(host_id: int, name: str, actor: Actor, clock: Clock = system) -> str:
    """Remove an alias. Return it as it was stored."""
    (short,) = check_names({name: ""})
    with writing():
        host = _host(host_id)
        others = _others(host, short)
        if others == _names(host):
            raise NotFound(f"{host.name} has no name {short}.")
        _set_names(host, others, actor, clock)
    return short


def _host(host_id: int) -> Host:
    host = Host.objects.select_for_update().filter(pk=host_id, removed_at=None).first()
    if host is None:
        raise NotFound("There is no such host any more.")
    return host


def _names(host: Host) -> dict[str, str]:
    rows = GatewayName.objects.filter(host=host)
    return dict(rows.values_list("name", "profile__name"))


def _others(host: Host, name: str) -> dict[str, str]:
    """Return the aliases of a host other than this one, ignoring case."""
    this = ModelName.parse(name)
    return {n: profile for n, profile in _names(host).items() if ModelName.parse(n) != this}


def check_names(names: Mapping[str, str]) -> dict[str, str]:
    """Return aliases in their stored form: without `:latest`, which is the default (fact 20)."""
    if len(names) > MAX_NAMES:
        raise BadRequest(f"A host has at most {MAX_NAMES} names.", "names")
    kept: dict[ModelName, str] = {}
    for text, profile in names.items():
        name = ModelName.parse(_checked(text))
        if name in kept:
            raise BadRequest(TWICE.format(name=name), "names")
        kept[name] = profile
    return {name.short: profile for name, profile in kept.items()}


def _checked(name: str) -> str:
    try:
        return check_tag(name)
    except BadRequest as exc:
        text = f"{name.strip()!r} cannot be a name. Write it like a model's, for example small."
        raise BadRequest(text, "names") from exc


def _check_no_cloud_models(host: Host, profiles: list[ModelProfile]) -> None:
    if host.allows_cloud:
        return
    rows = installed_on(host)
    for profile in profiles:
        model = ModelName.parse(profile.tag)
        if is_cloud(model, find_installed(rows, model)):
            text = (
                f"Profile {profile.name} is of the cloud model {model}, and the settings of "
                f"{host.name} do not allow prompts to leave it."
            )
            raise BadRequest(text, "names")


def _set_names(host: Host, wanted: dict[str, str], actor: Actor, clock: Clock) -> None:
    profiles = {p.name: p for p in ModelProfile.objects.filter(name__in=set(wanted.values()))}
    missing = next((name for name in wanted.values() if name not in profiles), None)
    if missing is not None:
        raise BadRequest(f"There is no profile named {missing!r}.", "names")
    before = _names(host)
    if before == wanted:
        return
    _check_no_cloud_models(host, [profiles[profile] for profile in wanted.values()])
    GatewayName.objects.filter(host=host).delete()
    GatewayName.objects.bulk_create(
        GatewayName(host=host, name=name, profile=profiles[profile])
        for name, profile in wanted.items()
    )
    check_one_way(host.pk, "names")
    old, new = ({"names": [f"{n} = {p}" for n, p in sorted(d.items())]} for d in (before, wanted))
    append("host.names", actor, host=host.name, clock=clock, before=old, after=new)
