"""The lab's own in-memory database, with the hosts and profiles that schedules start from."""

from __future__ import annotations

from django.core.management import call_command
from django.db import connections

from switcher.models import Host, ModelProfile
from switcher.records import config
from tests.faultlab.clock import LabClock
from tests.faultlab.hosts import GB
from tests.faultlab.schedules import HOSTS, Schedule
from tests.faultlab.world import ANNA, RESIDENT, World

PUBLISHED = "active:latest"


def use_memory() -> None:
    """Make this thread use an empty in-memory SQLite database. The real one is not even opened."""
    row = dict(connections.databases["default"])
    row |= {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", "OPTIONS": {}}
    row |= {"USER": "", "PASSWORD": "", "HOST": "", "PORT": "", "CONN_MAX_AGE": None}
    connections.databases["default"] = row
    connections["default"] = connections.create_connection("default")
    call_command("migrate", verbosity=0)


def fill() -> None:
    """Create the hosts and profiles. Where mid-a is active from the start, a switch without faults
    made it so."""
    clock = LabClock()
    for tag in ("mid-a", "mid-b", "big", "embed"):
        config.save_profile(ModelProfile(name=tag, tag=tag), ANNA, clock)
    for profile in (
        ModelProfile(name="mid-a-long", tag="mid-a", options={"num_ctx": 8192}),
        ModelProfile(name="mid-b-picky", tag="mid-b", min_gpu_percent=90),
    ):
        config.save_profile(profile, ANNA, clock)
    for name in HOSTS:
        url = f"http://{name}.lab:11434"
        row = Host(name=name, base_url=url, vram_bytes=24 * GB, published_name=PUBLISHED)
        config.save_host(row, ANNA, clock)
        if RESIDENT[name]:
            World(Schedule(target="mid-a", host=name), resident=()).run()
    embed = ModelProfile.objects.get(name="embed")
    config.set_pinned(Host.objects.get(name="north-3"), [embed], ANNA, clock)
