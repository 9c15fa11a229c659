"""Checks that all aliases of a host for the same model load it with the same options."""

from __future__ import annotations

from switcher.domain.errors import BadRequest
from switcher.domain.model_names import ModelName
from switcher.domain.specs import runner_options
from switcher.models import GatewayName, ModelProfile


def check_one_way(host_id: int, field: str) -> None:
    """Raise BadRequest if two aliases of this host name the same model with different runner
    options: a request by one would reload what the other has loaded (fact 12)."""
    seen: dict[ModelName, GatewayName] = {}
    rows = GatewayName.objects.filter(host_id=host_id).select_related("host", "profile")
    for row in rows.order_by("name"):
        first = seen.setdefault(ModelName.parse(row.profile.tag), row)
        if runner_options(first.profile.options) != runner_options(row.profile.options):
            raise BadRequest(_text(first, row), field)


def check_profile(profile: ModelProfile) -> None:
    """Check each host that has an alias for this profile."""
    named = GatewayName.objects.filter(profile=profile, host__removed_at=None)
    for host_id in sorted(set(named.values_list("host_id", flat=True))):
        check_one_way(host_id, "options")


def _text(one: GatewayName, other: GatewayName) -> str:
    model, profiles = ModelName.parse(one.profile.tag), f"{one.profile} and {other.profile}"
    return (
        f"{one.name} and {other.name} both mean {model} on {one.host}, by the profiles {profiles}, "
        "whose runner options are not the same: each request by the one name would load it anew "
        "for the other. Let both stand for one profile, or make these options alike."
    )
