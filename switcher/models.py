"""The rows and their constraints. Only `records` writes them; it and `queries` read them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q

from switcher.fields import Bytes, Chars, Moment, Number, Reference, Text
from switcher.states import OPEN, State, Strategy


class ModelProfile(models.Model):
    """A model with all that loading it needs. Independent of any host."""

    name = models.SlugField(max_length=60, unique=True)
    tag = models.CharField(max_length=200)
    keep_alive = models.CharField(max_length=20, default="30m")
    options = models.JSONField(default=dict, blank=True)
    warmups = models.JSONField(default=list, blank=True)
    load_timeout_s = models.PositiveIntegerField(null=True, blank=True)
    min_gpu_percent = models.PositiveSmallIntegerField(null=True, blank=True)
    min_tokens_per_s = models.FloatField(null=True, blank=True)
    floor_fails = models.BooleanField(default=True)
    notes = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Host(models.Model):
    """One Ollama server, and what is desired of it. What it holds is in Reading."""

    name = models.SlugField(max_length=40)
    base_url = models.CharField(max_length=300)
    vram_bytes = models.PositiveBigIntegerField(null=True, blank=True)
    simulated = models.BooleanField(default=False)
    is_default = models.BooleanField(default=False)
    strategy = models.CharField(
        max_length=10, choices=[(s.value, s.value) for s in Strategy], default=Strategy.AUTO.value
    )
    keep_alive = models.CharField(max_length=20, default="30m")
    preloaded: models.ManyToManyField[ModelProfile, models.Model] = models.ManyToManyField(
        ModelProfile, blank=True, related_name="preloaded_on", through="Preload"
    )
    # Set in one place only: the transaction that activates.
    active_profile = models.ForeignKey(
        ModelProfile, null=True, blank=True, on_delete=models.PROTECT, related_name="active_on"
    )
    active_tag = models.CharField(max_length=200, blank=True)
    active_digest = models.CharField(max_length=80, blank=True)
    active_spec = models.JSONField(null=True, blank=True)
    active_since = models.DateTimeField(null=True, blank=True)
    # A restore that failed too: the host does not hold what is recorded as active.
    degraded = models.TextField(blank=True)
    # What the watcher does about drift: tell of it, or switch back as well.
    drift_policy = models.CharField(
        max_length=6, choices=[("report", "report"), ("repair", "repair")], default="report"
    )
    repairs_an_hour = models.PositiveSmallIntegerField(default=3)
    # Which model the gateway's clients get: the active one whatever they name, or what they name.
    gateway_policy = models.CharField(
        max_length=6,
        choices=[("active", "active"), ("names", "names"), ("strict", "strict")],
        default="active",
    )
    # A name on the Ollama server itself that always means the active model (facts 21, 22): as it
    # is wanted, and what of it is ours there. A name that is not written down here is not touched.
    published_name = models.CharField(max_length=200, blank=True)
    published_as = models.CharField(max_length=200, blank=True)
    published_tag = models.CharField(max_length=200, blank=True)
    published_digest = models.CharField(max_length=80, blank=True)
    removed_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        constraints = [
            models.UniqueConstraint(
                fields=["is_default"], condition=Q(is_default=True), name="one_default_host"
            ),
            # A removed host keeps its name in its history; the name may be used again.
            models.UniqueConstraint(
                fields=["name"], condition=Q(removed_at=None), name="one_host_a_name"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Preload(models.Model):
    """A profile to keep resident on a host beside the active one."""

    host = models.ForeignKey(Host, on_delete=models.CASCADE)
    profile = models.ForeignKey(ModelProfile, on_delete=models.PROTECT)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["host", "profile"], name="preloaded_once")]

    def __str__(self) -> str:
        return f"{self.profile} on {self.host}"


class Reading(models.Model):
    """What a host was last seen to hold, with its time. Never what should be."""

    host = models.OneToOneField(Host, on_delete=models.CASCADE, related_name="reading")
    at = models.DateTimeField()
    resident = models.JSONField(default=list)
    installed = models.JSONField(default=list)
    version = models.CharField(max_length=40, blank=True)
    latency_ms = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True)
    failures = models.PositiveIntegerField(default=0)
    # The last time it answered: what is shown then is this old.
    answered_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.host} at {self.at:%H:%M:%S}"


class Drift(models.Model):
    """A host was seen to differ from what is desired of it. Open until it no longer does."""

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="drifts")
    kind = models.CharField(max_length=20)  # as in drift.Kind
    model = models.CharField(max_length=200, blank=True)
    digest = models.CharField(max_length=80, blank=True)
    text = models.TextField()
    # What was wanted, what was seen before and now, each with its time.
    evidence = models.JSONField(default=dict)
    since = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    ending = models.CharField(max_length=300, blank=True)
    repair = models.ForeignKey(
        "SwitchEvent", null=True, on_delete=models.SET_NULL, related_name="repaired"
    )

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["host", "kind", "digest"],
                condition=Q(ended_at=None),
                name="one_open_drift_of_a_kind",
            )
        ]
        indexes = [models.Index(fields=["host", "-id"], name="drift_by_host")]

    def __str__(self) -> str:
        return f"{self.host}: {self.kind} {self.model}"


class Handle(models.Model):
    """A copy of a model that Switchboard loaded, kept on the host while that is resident, so that
    it can be unloaded even after its name was pointed at other content (facts 21, 23)."""

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="handles")
    digest = models.CharField(max_length=80)
    tag = models.CharField(max_length=200)  # what it is a copy of
    name = models.CharField(max_length=200)  # as `ollama list` shows it
    made_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["host", "digest"], name="one_handle_a_digest"),
            models.UniqueConstraint(fields=["host", "name"], name="one_handle_a_name"),
        ]

    def __str__(self) -> str:
        return f"{self.name} on {self.host}"


class Lease(models.Model):
    """Who may change a host, until when. `fence` only grows; each write names it."""

    host = models.OneToOneField(Host, on_delete=models.CASCADE, related_name="lease")
    fence = models.PositiveBigIntegerField(default=0)
    owner = models.CharField(max_length=80, blank=True)
    until = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.host}: {self.owner} until {self.until}"


class Origin(models.Model):
    """From where someone acted. A row of its own, so that it can be erased for a person
    without touching a sealed record, which holds SHA-256(salt || value) of each."""

    ip = models.GenericIPAddressField(null=True)
    agent = Chars(max_length=300, blank=True)
    salt = Bytes(max_length=16, default=bytes)
    erased_at = Moment(null=True)

    def __str__(self) -> str:
        return self.ip or "unknown"


class SwitchEvent(models.Model):
    """One switch, from the request to its end. Sealed by a database trigger once it has ended."""

    host = models.ForeignKey(Host, on_delete=models.PROTECT, related_name="switches")
    state = models.CharField(
        max_length=12, choices=[(s.value, s.value) for s in State], default=State.QUEUED.value
    )
    fence = models.PositiveBigIntegerField(default=0)
    # Who, from where, why.
    actor_id = models.PositiveBigIntegerField(null=True)
    actor = models.CharField(max_length=150)
    source = models.CharField(max_length=10)
    origin = models.ForeignKey(Origin, null=True, on_delete=models.PROTECT)
    reason = models.CharField(max_length=500, blank=True)
    idempotency_key = models.CharField(max_length=200, blank=True)
    # From what to what.
    from_tag = models.CharField(max_length=200, blank=True)
    from_digest = models.CharField(max_length=80, blank=True)
    from_spec = models.JSONField(null=True)
    to_tag = models.CharField(max_length=200)
    to_digest = models.CharField(max_length=80, blank=True)
    to_profile_id = models.PositiveBigIntegerField(null=True)
    to_spec = models.JSONField()
    # How.
    strategy_asked = models.CharField(max_length=10)
    strategy = models.CharField(max_length=10, blank=True)
    strategy_reason = models.CharField(max_length=300, blank=True)
    plan_token = models.CharField(max_length=40, blank=True)
    plan = models.JSONField(null=True)
    cancel_asked_by = models.CharField(max_length=150, blank=True)
    cancel_asked_at = models.DateTimeField(null=True)
    # What happened.
    phases = models.JSONField(default=list)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    figures = models.JSONField(default=dict)
    error_code = models.CharField(max_length=30, blank=True)
    error = models.TextField(blank=True)
    outcome = models.TextField(blank=True)
    restored = models.TextField(blank=True)
    warnings = models.JSONField(default=list)
    degraded = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]
        constraints = [
            # Rule 1: one open switch for a host is a constraint, not a check.
            models.UniqueConstraint(
                fields=["host"],
                condition=Q(state__in=sorted(s.value for s in OPEN)),
                name="one_open_switch_a_host",
            ),
            models.UniqueConstraint(
                fields=["actor", "idempotency_key"],
                condition=~Q(idempotency_key=""),
                name="one_switch_an_idempotency_key",
            ),
        ]
        indexes = [
            models.Index(fields=["host", "-id"], name="switch_by_host"),
            models.Index(fields=["actor", "-id"], name="switch_by_actor"),
            models.Index(fields=["state", "-id"], name="switch_by_state"),
        ]
        permissions = [("switch_model", "Can switch models")]

    def __str__(self) -> str:
        return f"switch {self.pk}: {self.host} to {self.to_tag}, {self.state}"


class FailureSeen(models.Model):
    """Somebody has looked at a switch that did not succeed. Beside the record, which is sealed."""

    switch = models.OneToOneField(SwitchEvent, on_delete=models.CASCADE, related_name="seen")
    by = models.CharField(max_length=150)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"switch {self.switch_id} seen by {self.by}"


class LedgerRow(models.Model):
    """The evidence: one entry of the trail as it was written and hashed. Append only, by trigger.

    `hash` is SHA-256(0x00 || prev || body): the link of the chain and an RFC 6962 leaf.
    """

    seq = Number(primary_key=True)
    # Canonical JSON: sorted keys, no spaces, no floats. The text is what is hashed, so it is
    # never a JSON column, which a database re-orders.
    body = Text()
    prev = Bytes(max_length=32)
    hash = Bytes(max_length=32)

    def __str__(self) -> str:
        return f"entry {self.seq}"


class AuditEntry(models.Model):
    """An entry's columns to search by. Made from the ledger, and can be made again from it."""

    seq = Number(primary_key=True)
    at = Moment()
    kind = Chars(max_length=40)
    actor = Chars(max_length=150)
    host = Chars(max_length=40, blank=True)
    model = Chars(max_length=200, blank=True)
    outcome = Chars(max_length=12, blank=True)
    reason = Chars(max_length=500, blank=True)
    switch = Reference(SwitchEvent, null=True, on_delete=models.PROTECT, related_name="entries")
    origin = Reference(Origin, null=True, on_delete=models.PROTECT)

    class Meta:
        ordering = ["-seq"]
        verbose_name_plural = "audit entries"
        indexes = [
            models.Index(fields=["kind", "-seq"], name="entry_by_kind"),
            models.Index(fields=["actor", "-seq"], name="entry_by_actor"),
            models.Index(fields=["host", "-seq"], name="entry_by_host"),
            models.Index(fields=["model", "-seq"], name="entry_by_model"),
            models.Index(
                fields=["outcome", "-seq"], name="entry_by_outcome", condition=~Q(outcome="")
            ),
            models.Index(fields=["at"], name="entry_by_time"),
            # Which model was active when: few entries of very many.
            models.Index(
                fields=["host", "-seq"], name="entry_activated", condition=Q(kind="host.activated")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.seq} {self.kind}"

    @property
    def body(self) -> str:
        """The text that was hashed; a query of its own."""
        return LedgerRow.objects.values_list("body", flat=True).get(pk=self.seq)

    @property
    def facts(self) -> dict[str, Any]:
        """What happened, as the body tells it."""
        facts: dict[str, Any] = json.loads(self.body)["facts"]
        return facts


class Checkpoint(models.Model):
    """A signed note over the first `size` entries."""

    size = Number()
    note = Text()
    # The tree at that size, so that the next one need not read all entries again. Not believed
    # by itself: its root is in the note, which is signed.
    tree = Text()
    at = Moment()

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["size"], name="checkpoint_by_size")]

    def __str__(self) -> str:
        return f"checkpoint over {self.size}"


class Subtree(models.Model):
    """The hash of a full subtree of the trail's Merkle tree, so that a proof need not read all
    entries. It is believed by nobody: a proof made with it leads to what was signed, or not.

    `id` is the subtree's number in an in-order walk, `(2 * index + 1) << level`.
    """

    id = Number(primary_key=True)
    hash = Bytes(max_length=32)

    def __str__(self) -> str:
        return f"subtree {self.id}"


class Delivery(models.Model):
    """A checkpoint on its way to a sink outside of this database."""

    checkpoint = Reference(Checkpoint, on_delete=models.CASCADE, related_name="deliveries")
    sink = Chars(max_length=20)  # file, syslog, webhook
    tries = models.PositiveIntegerField(default=0)
    next_at = Moment()
    error = Chars(max_length=300, blank=True)
    delivered_at = Moment(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["checkpoint", "sink"], name="delivered_once"),
        ]
        indexes = [
            models.Index(fields=["next_at"], name="delivery_due", condition=Q(delivered_at=None))
        ]

    def __str__(self) -> str:
        return f"{self.checkpoint} to {self.sink}"


class Segment(models.Model):
    """Old entries that were moved out of the database into a sealed file. Sealed by triggers, and
    each follows from the one before."""

    first = models.BigIntegerField()
    last = models.BigIntegerField(unique=True)
    last_at = Moment()
    name = models.CharField(max_length=100)
    size = models.BigIntegerField()
    sha256 = models.CharField(max_length=64)
    # What the rest is verified from: the hash of the last entry, the tree up to it, and the
    # changes of key until then.
    prev = models.CharField(max_length=64)
    tree = models.TextField()
    rotations = models.JSONField(default=list)
    # The entry that tells of it.
    entry = models.BigIntegerField()
    at = Moment()

    class Meta:
        ordering = ["first"]

    def __str__(self) -> str:
        return f"entries {self.first} to {self.last}"


class Review(models.Model):
    """An auditor has looked at an entry. The mark is an entry of its own, too."""

    seq = Number(db_index=True)
    by = Chars(max_length=150)
    at = Moment()
    note = Chars(max_length=500, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"entry {self.seq} reviewed by {self.by}"


class GatewayProcess(models.Model):
    """A process that passes clients' requests on. A switch that closes a host's gate waits until
    each of them has said that it knows; one that was not seen for a while is not waited for."""

    name = models.CharField(max_length=80, unique=True)
    seen_at = models.DateTimeField()
    # By host id: the gate that it has seen closed, and the requests that it still has under way.
    gates = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.name


class GatewayName(models.Model):
    """A name that clients of a host may use, and the profile that they get by it."""

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="names")
    name = models.CharField(max_length=200)
    profile = models.ForeignKey(ModelProfile, on_delete=models.CASCADE, related_name="names")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["host", "name"], name="one_name_a_host")]

    def __str__(self) -> str:
        return f"{self.name} on {self.host}"


class ApiKey(models.Model):
    """A client's key to the gateway. Of the key itself only its SHA-256 is kept: it is 256 random
    bits, so nothing slower is needed."""

    name = models.CharField(max_length=60)
    prefix = models.CharField(max_length=12)  # to recognise it by
    sha256 = models.CharField(max_length=64, unique=True)
    # An empty list alone says nothing: what a key was bound to may be gone, which opens nothing.
    all_hosts = models.BooleanField(default=False)
    hosts = models.ManyToManyField(Host, blank=True, related_name="keys")
    all_profiles = models.BooleanField(default=False)
    profiles = models.ManyToManyField(ModelProfile, blank=True, related_name="keys")
    manage = models.BooleanField(default=False)  # may pull, delete, create, copy, push
    requests_a_minute = models.PositiveIntegerField(null=True, blank=True)
    at_once = models.PositiveIntegerField(null=True, blank=True)
    made_at = models.DateTimeField()
    made_by = models.CharField(max_length=150)
    expires_at = models.DateTimeField(null=True, blank=True)
    off_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"

    @classmethod
    def working(cls, moment: datetime) -> models.QuerySet[ApiKey]:
        """Those by which somebody gets in then."""
        lasting = Q(expires_at=None) | Q(expires_at__gt=moment)
        return cls.objects.filter(lasting, off_at=None)


class Usage(models.Model):
    """What one key asked of one model on one host in one hour: counts, never contents."""

    COUNTS: ClassVar[tuple[str, ...]] = (
        "requests",
        "errors",
        "waits",
        "wait_ms",
        "tokens_in",
        "tokens_out",
    )

    key = models.ForeignKey(ApiKey, null=True, on_delete=models.PROTECT, related_name="usage")
    host = models.CharField(max_length=40)
    model = models.CharField(max_length=200)
    hour = models.DateTimeField()
    requests = models.PositiveBigIntegerField(default=0)
    errors = models.PositiveBigIntegerField(default=0)
    waits = models.PositiveBigIntegerField(default=0)
    wait_ms = models.PositiveBigIntegerField(default=0)
    tokens_in = models.PositiveBigIntegerField(default=0)
    tokens_out = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["key", "host", "model", "hour"],
                name="one_usage_an_hour",
                condition=Q(key__isnull=False),
            ),
            models.UniqueConstraint(
                fields=["host", "model", "hour"],
                name="one_keyless_usage_an_hour",
                condition=Q(key__isnull=True),
            ),
        ]
        indexes = [models.Index(fields=["-hour"], name="usage_by_hour")]

    def __str__(self) -> str:
        return f"{self.key} on {self.host}, {self.model}"


class FailedLogin(models.Model):
    """How often a name was tried in vain from an address, until that counts no longer. Both are
    keyed hashes: people type passwords where names belong."""

    name_key = models.CharField(max_length=64)
    address_key = models.CharField(max_length=64, blank=True)
    failures = models.PositiveIntegerField()
    last_at = models.DateTimeField(db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["name_key", "address_key"], name="one_count_a_pair")
        ]
        indexes = [models.Index(fields=["address_key"], name="failures_by_address")]

    def __str__(self) -> str:
        return f"{self.failures} failures until {self.last_at:%H:%M:%S}"


class Preference(models.Model):
    """What a person chose for their own pages."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="preference"
    )
    theme = models.CharField(
        max_length=6,
        choices=[("system", "system"), ("light", "light"), ("dark", "dark")],
        default="system",
    )

    def __str__(self) -> str:
        return f"{self.user}: {self.theme}"
