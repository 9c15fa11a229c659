"""Switches, from the request to the immutable record."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from switcher.domain.states import OPEN, State
from switcher.models.accounts import Origin
from switcher.models.hosts import Host


class SwitchEvent(models.Model):
    """A switch, from request to end. Sealed by a database trigger once it has ended."""

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
            # Rule 1: a constraint, not a check, allows one open switch for each host.
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
    """A mark that somebody has seen a switch that did not succeed. Separate from the switch, which
    is sealed.
    """

    switch = models.OneToOneField(SwitchEvent, on_delete=models.CASCADE, related_name="seen")
    by = models.CharField(max_length=150)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"switch {self.switch_id} seen by {self.by}"
