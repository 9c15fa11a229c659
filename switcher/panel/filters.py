"""Template filters (filled by the panel)."""

from django import template

register = template.Library()
