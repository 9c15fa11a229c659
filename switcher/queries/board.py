"""Everything on the board, in four queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from django.db.models import Q

from switcher.domain.observed import Observation
from switcher.domain.states import OPEN
from switcher.models import ModelProfile, SwitchEvent
from switcher.queries.from_rows import grouped
from switcher.queries.hosts import HostDetail, Pins, details_of, host_rows, last_ended
from switcher.queries.switches import SwitchDetail, switch_details

RECENT_SWITCHES = 6


@dataclass(frozen=True, slots=True)
class BoardFacts:
    """The facts on the board. `switches` has the open ones, the last ended one of each host, and
    the most recent ones; the newest comes first. `profiles` are names with tags."""

    hosts: tuple[HostDetail, ...]
    switches: tuple[SwitchDetail, ...]
    profiles: tuple[tuple[str, str], ...]


def board_facts(fresh: Mapping[int, Observation] | None = None) -> BoardFacts:
    """Read the board. `fresh` are this process's own readings by host id."""
    rows = list(host_rows())
    profiles, pins = _profiles()
    newest = SwitchEvent.objects.order_by("-id").values("id")[:RECENT_SWITCHES]
    switches = switch_details(Q(state__in=OPEN) | last_ended(rows) | Q(pk__in=newest))
    return BoardFacts(details_of(rows, switches, pins, fresh), tuple(switches), profiles)


def _profiles() -> tuple[tuple[tuple[str, str], ...], Pins]:
    """Return all profiles, and which are pinned on which host, in one query."""
    rows = ModelProfile.objects.values_list("name", "tag", "pin__host_id")
    by_host = grouped((host_id, (name, tag)) for name, tag, host_id in rows)
    return tuple(dict.fromkeys((name, tag) for name, tag, _ in rows)), by_host
