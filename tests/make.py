"""Hosts, profiles, switches and people for tests, made the way the product makes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import (
    BACKEND_SESSION_KEY,
    HASH_SESSION_KEY,
    SESSION_KEY,
    get_user_model,
)
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group

from switcher.access import AUDITORS, OPERATORS
from switcher.domain.drift import DriftFinding, Kind
from switcher.domain.model_names import ModelName
from switcher.domain.observed import Installed, Observation, Resident
from switcher.domain.specs import Spec
from switcher.domain.states import PHASES, State, Strategy
from switcher.models import Drift, Host, ModelProfile, SwitchEvent
from switcher.records import Actor, claimed_switch, config, drifts, leases, readings, switches
from switcher.records.claimed_switch import ClaimedSwitch, snapshot
from switcher.records.drifts import Detection
from switcher.records.switches import ResolvedRequest
from switcher.switching.planning import plan_switch
from tests.clocks import FakeClock

GB = 1_000_000_000
NOW = datetime(2026, 11, 24, 14, 32, 7, tzinfo=UTC)
# Later than anything that a test writes, at NOW or while it runs.
AFTER_ALL = datetime(2100, 1, 1, tzinfo=UTC)
ANNA = Actor("anna", "page", ip="192.0.2.14", agent="Firefox")


def digest(name: str) -> str:
    """Return a digest that no other model has."""
    return name.encode().hex().ljust(64, "0")[:64]


def resident(name: str | ModelName, gb: float = 5.0, **values: Any) -> Resident:
    """Return a row of `/api/ps`: all on the GPU, with 24 minutes left."""
    size = round(gb * GB)
    facts: dict[str, Any] = {
        "name": ModelName.parse(str(name)),
        "digest": digest(str(name)),
        "size": size,
        "size_vram": size,
        "context_length": 4096,
        "expires_at": NOW + timedelta(minutes=24),
    }
    return Resident(**facts | values)


def installed(name: str | ModelName, gb: float = 5.0, **values: Any) -> Installed:
    """Return a row of `/api/tags`."""
    model = ModelName.parse(str(name))
    facts: dict[str, Any] = {"capabilities": ("completion",)}
    return Installed(model, digest(str(name)), round(gb * GB), **facts | values)


def seen(*rows: Resident, on_disk: tuple[Installed, ...] = (), **values: Any) -> Observation:
    """Return a reading. Resident models are also installed."""
    disk = {i.name: i for i in (*(Installed(r.name, r.digest, r.size) for r in rows), *on_disk)}
    facts: dict[str, Any] = {"at": NOW - timedelta(seconds=2), "version": "0.12.6"}
    return Observation(resident=rows, installed=tuple(disk.values()), **facts | values)


def host(name: str = "north-1", seen: Observation | None = None, **values: Any) -> Host:
    """Save a host of 24 GB; `seen` is its last reading."""
    facts: dict[str, Any] = {"base_url": f"http://{name}.test:11434", "vram_bytes": 24 * GB}
    row = config.save_host(Host(name=name, **facts | values), ANNA)
    if seen is not None:
        readings.store(row.pk, seen, 0)
    return row


def profile(tag: str = "qwen2.5:14b", name: str = "", **values: Any) -> ModelProfile:
    name = name or tag.replace(":", "-").replace(".", "-")
    return config.save_profile(ModelProfile(name=name, tag=tag, **values), ANNA)


def open_switch(
    to: Host, tag: str = "qwen2.5:14b", *, clock: FakeClock | None = None, **values: Any
) -> SwitchEvent:
    """Request a switch that no worker has claimed."""
    found = ModelProfile.objects.filter(tag=tag).first()
    request = ResolvedRequest(
        host=to,
        spec=values.pop("spec", Spec.of_profile(found) if found else Spec("", tag)),
        profile_id=found.pk if found else None,
        strategy=values.pop("strategy", Strategy.AUTO),
        reason=values.pop("reason", "Better answers"),
    )
    actor = values.pop("actor", ANNA)
    row, _ = switches.open_switch(request, actor, clock=clock or FakeClock(NOW), **values)
    return row


def claim(row: SwitchEvent, clock: FakeClock) -> ClaimedSwitch:
    """Claim a switch for a worker."""
    fence = leases.take(row.host_id, "test", clock)
    assert fence is not None
    claimed = claimed_switch.claim(row.pk, fence, clock)
    assert claimed is not None
    return claimed


def switch_up_to(
    to: Host,
    state: State,
    tag: str = "qwen2.5:14b",
    *,
    before: tuple[Resident, ...] = (),
    strategy: Strategy = Strategy.SWAP,
    clock: FakeClock | None = None,
    step_s: float = 1.0,
    **values: Any,
) -> ClaimedSwitch:
    """Claim a switch and move it to a state on its way to success; each phase takes `step_s`."""
    clock = clock or FakeClock(NOW - timedelta(seconds=10))
    row = open_switch(to, tag, clock=clock, **values)
    claimed = claim(row, clock)
    spec = claimed.spec
    disk = (installed(spec.name), *(Installed(r.name, r.digest, r.size) for r in before))
    plan = plan_switch(to, spec, strategy, before, disk)
    for phase in PHASES[strategy]:
        claimed.move(phase)
        if phase is State.CHECKING:
            claimed.record_plan(plan, before)
        if phase is state:
            break
        clock.sleep(step_s)
    return claimed


def ended_switch(
    on: Host,
    tag: str = "qwen2.5:14b",
    end: State = State.ACTIVE,
    *,
    before: tuple[Resident, ...] = (),
    at: datetime = NOW - timedelta(hours=1),
    **values: Any,
) -> SwitchEvent:
    """Return a switch that ended as `active`, or that failed or was stopped while loading."""
    clock = FakeClock(at)
    last = PHASES[Strategy.SWAP][-1] if end is State.ACTIVE else State.LOADING
    claimed = switch_up_to(on, last, tag, before=before, clock=clock, **values)
    row = SwitchEvent.objects.get(pk=claimed.id)
    if end is State.ACTIVE:
        facts: dict[str, Any] = {
            "after": snapshot((resident(row.to_spec["tag"]),)),
            "outcome": f"{tag} is active on {on.name}.",
            "figures": {"tokens_per_s": 23.1},
        }
        claimed.activate(State.ACTIVE, digest(tag), **facts)
    else:
        text = "Ollama answered 500: cudaMalloc failed: out of memory"
        claimed.move(State.RESTORING, note="stopped here", error_code="refused", error=text)
        clock.sleep(2.0)
        outcome = f"{tag} did not become active. The old model is active again."
        claimed.end(end, after=snapshot(before), restored="llama3.1:8b", outcome=outcome)
    leases.give_back(on.pk, claimed.fence)
    on.refresh_from_db()
    return SwitchEvent.objects.get(pk=claimed.id)


def drift(on: Host, kind: Kind, tag: str = "", text: str = "", **values: Any) -> Drift:
    """Record a drift, as the watcher does. Other open drifts stay open."""
    found = DriftFinding(
        kind,
        tag,
        values.pop("digest", digest(tag) if tag else ""),
        text or f"{tag} drifted.",
        values.pop("evidence", {"wanted": {"model": tag}, "before": None, "now": None}),
    )
    judged = Detection(
        host_id=on.pk,
        active_digest=on.active_digest,
        active_since=on.active_since,
        read_at=values.pop("at", NOW - timedelta(minutes=1)),
        kinds=frozenset(),
        found=(found,),
        ending=lambda kind, digest: "",
    )
    assert drifts.record(judged, FakeClock(NOW)) is not None
    return Drift.objects.get(host=on, kind=kind.value, digest=found.digest, ended_at=None)


def user(name: str = "olga", role: str = OPERATORS, password: str = "", **values: Any) -> Any:
    """Create an account with a role; `role="admin"` makes a superuser, an empty one a plain user.

    It has no password unless one is given, since hashing takes longer than most tests. Creating it
    writes no audit entry.
    """
    users = get_user_model()
    admin = role == "admin"
    facts = {"is_staff": admin or role in {OPERATORS, AUDITORS}, "is_superuser": admin} | values
    (person,) = users.objects.bulk_create(
        [users(username=name, password=make_password(password or None), **facts)]
    )
    if role and not admin:
        group = Group.objects.get(name=role)
        users.groups.through.objects.bulk_create(
            [users.groups.through(user_id=person.pk, group_id=group.pk)]
        )
    return person


def sign_in(client: Any, person: Any) -> None:
    """Give the client a session. This writes no audit entry."""
    session = import_module(settings.SESSION_ENGINE).SessionStore()
    session[SESSION_KEY] = str(person.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[0]
    session[HASH_SESSION_KEY] = person.get_session_auth_hash()
    session.save()
    client.cookies[settings.SESSION_COOKIE_NAME] = session.session_key
