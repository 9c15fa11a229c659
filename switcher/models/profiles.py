"""A model profile: what to load, and how."""

from __future__ import annotations

from django.db import models


class ModelProfile(models.Model):
    """A model with its settings for loading. Independent of any host."""

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
