from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate, pre_migrate


class SwitcherConfig(AppConfig):
    name = "switcher"
    verbose_name = "Switchboard"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from switcher.records import people

        pre_migrate.connect(lift_seals, sender=self)
        post_migrate.connect(prepare_database, sender=self)
        people.watch()


def lift_seals(using: str = "default", plan: Any = (), **_: Any) -> None:
    """Before tables change: SQLite renames none that a trigger of another one looks at. Who crashes
    in between finds them missing at the next start, which makes them again and says so."""
    from switcher.audit.immutability_triggers import unseal

    if any(migration.app_label == "switcher" for migration, _ in plan):
        unseal(using)


def prepare_database(using: str = "default", **_: Any) -> None:
    """After every migrate: the seals, the index of words, and the groups that roles are made of."""
    from django.contrib.auth.models import Group

    from switcher.access import AUDITORS, OPERATORS
    from switcher.audit.immutability_triggers import seal
    from switcher.audit.text_index import index_words

    seal(using)
    index_words(using)
    # In bulk: what the product itself brings along is no change that somebody made.
    groups = Group.objects.using(using)
    there = set(groups.values_list("name", flat=True))
    groups.bulk_create(Group(name=n) for n in (OPERATORS, AUDITORS) if n not in there)
