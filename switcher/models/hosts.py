"""Ollama hosts: desired state, observed state, leases and drift."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from switcher.domain.servers import Server
from switcher.domain.states import Strategy
from switcher.models.profiles import ModelProfile


class Host(models.Model):
    """An Ollama server and its desired state. Its observed state is in Reading."""

    name = models.SlugField(max_length=40)
    base_url = models.CharField(max_length=300)
    # Encrypted (`switcher/ollama/sealing.py`), and forgotten with the address.
    sealed_credentials = models.TextField(blank=True, default="")
    ca_certificate = models.TextField(blank=True, default="")
    verify_tls = models.BooleanField(default=True)
    vram_bytes = models.PositiveBigIntegerField(null=True, blank=True)
    simulated = models.BooleanField(default=False)
    is_default = models.BooleanField(default=False)
    strategy = models.CharField(
        max_length=10, choices=[(s.value, s.value) for s in Strategy], default=Strategy.AUTO.value
    )
    keep_alive = models.CharField(max_length=20, default="30m")
    pinned: models.ManyToManyField[ModelProfile, models.Model] = models.ManyToManyField(
        ModelProfile, blank=True, related_name="pinned_on", through="Pin"
    )
    # Only set by the transaction that activates a model.
    active_profile = models.ForeignKey(
        ModelProfile, null=True, blank=True, on_delete=models.PROTECT, related_name="active_on"
    )
    active_tag = models.CharField(max_length=200, blank=True)
    active_digest = models.CharField(max_length=80, blank=True)
    active_spec = models.JSONField(null=True, blank=True)
    active_since = models.DateTimeField(null=True, blank=True)
    # Set after a failed restore: the host does not hold what is recorded as active.
    degraded = models.TextField(blank=True)
    # What the watcher does about drift: only report it, or also switch back.
    drift_policy = models.CharField(
        max_length=6, choices=[("report", "report"), ("repair", "repair")], default="report"
    )
    repairs_an_hour = models.PositiveSmallIntegerField(default=3)
    # Which model the gateway's clients get: always the active one, or the one that they name.
    gateway_policy = models.CharField(
        max_length=6,
        choices=[("active", "active"), ("names", "names"), ("strict", "strict")],
        default="active",
    )
    # Whether prompts may leave the machine: only then is a cloud model switched to (fact 28).
    allows_cloud = models.BooleanField(default=False)
    # OLLAMA_MAX_LOADED_MODELS of the server, which it does not report; None if it was not set here.
    max_loaded = models.PositiveSmallIntegerField(null=True, blank=True)
    # The most models that were seen loaded when the server evicted one without need: its limit.
    learned_max_loaded = models.PositiveSmallIntegerField(null=True, blank=True)
    # Switches before this time tell nothing about the memory that models take now: the host had
    # another address, or a version of Ollama that gives another default context.
    sizes_since = models.DateTimeField(null=True)
    # OLLAMA_NUM_PARALLEL of the server, which it does not report; None if it was not set here.
    parallel_requests = models.PositiveSmallIntegerField(null=True, blank=True)
    # Of the network card, to wake a machine that sleeps (Wake-on-LAN); empty for never.
    mac_address = models.CharField(max_length=17, blank=True, default="")
    # A name on the Ollama server itself that always means the active model (facts 21, 22): as
    # desired, and as Switchboard has set it there. Names not recorded here are never touched.
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
            # A removed host keeps its name in its history; a new host may reuse the name.
            models.UniqueConstraint(
                fields=["name"], condition=Q(removed_at=None), name="one_host_a_name"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def server(self) -> Server:
        """Return how the host is reached."""
        return Server(self.base_url, self.sealed_credentials, self.ca_certificate, self.verify_tls)


class Pin(models.Model):
    """A profile to keep resident on a host next to the active one."""

    host = models.ForeignKey(Host, on_delete=models.CASCADE)
    profile = models.ForeignKey(ModelProfile, on_delete=models.PROTECT)
    digest = models.CharField(max_length=80, blank=True, default="")  # as last seen loaded

    class Meta:
        db_table = "switcher_preload"
        constraints = [models.UniqueConstraint(fields=["host", "profile"], name="preloaded_once")]

    def __str__(self) -> str:
        return f"{self.profile} on {self.host}"


class Reading(models.Model):
    """The observed state of a host, with its time; never the desired one."""

    host = models.OneToOneField(Host, on_delete=models.CASCADE, related_name="reading")
    at = models.DateTimeField()
    resident = models.JSONField(default=list)
    installed = models.JSONField(default=list)
    version = models.CharField(max_length=40, blank=True)
    latency_ms = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True)
    failures = models.PositiveIntegerField(default=0)
    # When it last answered, which is the age of the shown state.
    answered_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.host} at {self.at:%H:%M:%S}"


class Drift(models.Model):
    """A difference between a host's observed and desired state. Open until it is gone."""

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="drifts")
    kind = models.CharField(max_length=20)  # as in drift.Kind
    model = models.CharField(max_length=200, blank=True)
    digest = models.CharField(max_length=80, blank=True)
    text = models.TextField()
    # What was desired, what was seen before and what is seen now, each with its time.
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


class ModelCopy(models.Model):
    """A copy of a model that Switchboard loaded. It is kept on the host while the model is
    resident, so that the model can be unloaded even after its name has come to mean other content
    (facts 21, 23).
    """

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="model_copies")
    digest = models.CharField(max_length=80)
    tag = models.CharField(max_length=200)  # what it is a copy of
    name = models.CharField(max_length=200)  # the copy's name, as `ollama list` shows it
    made_at = models.DateTimeField()

    class Meta:
        db_table = "switcher_handle"
        constraints = [
            models.UniqueConstraint(fields=["host", "digest"], name="one_handle_a_digest"),
            models.UniqueConstraint(fields=["host", "name"], name="one_handle_a_name"),
        ]

    def __str__(self) -> str:
        return f"{self.name} on {self.host}"


class Lease(models.Model):
    """The exclusive right to change a host until a given time. `fence` only grows, and each write
    names it."""

    host = models.OneToOneField(Host, on_delete=models.CASCADE, related_name="lease")
    fence = models.PositiveBigIntegerField(default=0)
    owner = models.CharField(max_length=80, blank=True)
    until = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.host}: {self.owner} until {self.until}"


class LearnedSize(models.Model):
    """How much memory a model was seen to take on a host, loaded with a context length."""

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="learned_sizes")
    digest = models.CharField(max_length=80)
    context_length = models.PositiveIntegerField()
    size = models.PositiveBigIntegerField()
    # Whether a switch loaded it without a num_ctx, so that this context is the host's default for
    # it. What others ask for when they load a model is not known.
    by_default = models.BooleanField(default=False)
    seen_at = models.DateTimeField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["host", "digest", "context_length"], name="one_size_a_context"
            )
        ]

    def __str__(self) -> str:
        return f"{self.digest[:12]} on {self.host}: {self.size} at {self.context_length}"


class KnownModel(models.Model):
    """What `/api/show` tells about the memory that a model takes; null if it does not tell."""

    digest = models.CharField(max_length=80, unique=True)
    facts = models.JSONField(null=True)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return self.digest[:12]
