"""Gateway processes, client names, API keys and usage counts."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar

from django.db import models
from django.db.models import Q

from switcher.domain.inflight import DEAD_AFTER_S
from switcher.models.hosts import Host
from switcher.models.profiles import ModelProfile
from switcher.models.shared_time import furthest_ahead


class GatewayProcess(models.Model):
    """A process that forwards clients' requests. A switch that closes a host's gate waits until
    each process has acknowledged that, except those that were not seen for a while."""

    name = models.CharField(max_length=80, unique=True)
    seen_at = models.DateTimeField()
    # By host id: the gate that it has seen closed, and its requests still in flight.
    gates = models.JSONField(default=dict)

    def __str__(self) -> str:
        return self.name

    @classmethod
    def alive(
        cls, now: datetime, within_s: float = DEAD_AFTER_S
    ) -> models.QuerySet[GatewayProcess]:
        """Return the processes seen in the last seconds; `now` is the shared time."""
        since = now - timedelta(seconds=within_s)
        return cls.objects.filter(seen_at__gt=since, seen_at__lte=now + furthest_ahead(0.0))


class GatewayName(models.Model):
    """A name that clients of a host may use, and the profile that it stands for."""

    host = models.ForeignKey(Host, on_delete=models.CASCADE, related_name="names")
    name = models.CharField(max_length=200)
    profile = models.ForeignKey(ModelProfile, on_delete=models.CASCADE, related_name="names")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["host", "name"], name="one_name_a_host")]

    def __str__(self) -> str:
        return f"{self.name} on {self.host}"


class ApiKey(models.Model):
    """A client's key to the gateway. Only its SHA-256 is stored; as the key has 256 random bits, no
    slower hash is needed.
    """

    name = models.CharField(max_length=60)
    prefix = models.CharField(max_length=12)  # the beginning, to recognise it by
    sha256 = models.CharField(max_length=64, unique=True)
    # An empty list is not enough: everything that a key was bound to may be gone, and then it must
    # give access to nothing.
    all_hosts = models.BooleanField(default=False)
    hosts = models.ManyToManyField(Host, blank=True, related_name="keys")
    all_profiles = models.BooleanField(default=False)
    profiles = models.ManyToManyField(ModelProfile, blank=True, related_name="keys")
    manage = models.BooleanField(default=False)  # may pull, delete, create, copy, push
    may_switch = models.BooleanField(default=False)  # may switch the active model
    fallback = models.JSONField(default=list)  # names of profiles, in order
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
        """Return the keys that are accepted at that moment."""
        lasting = Q(expires_at=None) | Q(expires_at__gt=moment)
        return cls.objects.filter(lasting, off_at=None)


class Usage(models.Model):
    """The usage of one model on one host with one key in one hour: counts, never contents."""

    COUNTS: ClassVar[tuple[str, ...]] = (
        "requests",
        "errors",
        "waits",
        "wait_ms",
        "tokens_in",
        "tokens_out",
        "cut_prompts",
        "fallbacks",
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
    # Prompts that were longer than the context of the loaded model (fact 30).
    cut_prompts = models.PositiveBigIntegerField(default=0)
    last_cut_at = models.DateTimeField(null=True)
    # Requests that another model answered than the one they were to get.
    fallbacks = models.PositiveBigIntegerField(default=0)

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
