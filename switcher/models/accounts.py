"""Origins of actions, failed sign-ins, and personal preferences."""

from __future__ import annotations

from django.conf import settings
from django.db import models

from switcher.models.trail import TrailRow


class Origin(TrailRow):
    """An address and a browser that somebody acted from. It is a row of its own, so that it can be
    erased without touching an audit entry, which contains only SHA-256(salt || value) of each."""

    ip = models.GenericIPAddressField(null=True)
    agent = models.CharField(max_length=300, blank=True)
    salt = models.BinaryField(max_length=16, default=bytes)
    erased_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.ip or "unknown"


class FailedLogin(models.Model):
    """A count of failed sign-ins for a name from an address, until it expires. Name and address are
    stored as keyed hashes, because people type passwords into the name field."""

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
    """A person's preferences for their own pages."""

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
