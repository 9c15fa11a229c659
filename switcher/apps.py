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

        pre_migrate.connect(drop_triggers_before_migrate, sender=self)
        post_migrate.connect(prepare_database, sender=self)
        people.watch()


def drop_triggers_before_migrate(plan: Any = (), **_: Any) -> None:
    """Drop the triggers before a migration: SQLite cannot rename a table that is read by another
    table's trigger. If the process dies before they are back, the next start recreates and reports
    them."""
    from switcher.audit.immutability_triggers import drop_triggers

    if any(migration.app_label == "switcher" for migration, _ in plan):
        drop_triggers()


def prepare_database(**_: Any) -> None:
    """Create the triggers, the word index and the groups of the roles, after every migration."""
    from django.contrib.auth.models import Group

    from switcher.access import AUDITORS, OPERATORS
    from switcher.audit.immutability_triggers import make_triggers
    from switcher.audit.text_index import index_words

    make_triggers()
    index_words()
    # In bulk, which leaves no entry: nobody has made this change.
    there = set(Group.objects.values_list("name", flat=True))
    Group.objects.bulk_create(Group(name=n) for n in (OPERATORS, AUDITORS) if n not in there)
