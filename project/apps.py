"""The project as an app, so that its commands take precedence over daphne's."""

from __future__ import annotations

from django.apps import AppConfig


class ProjectConfig(AppConfig):
    name = "project"
    label = "switchboard_project"
    verbose_name = "Switchboard, assembled"

    def ready(self) -> None:
        from project import checks  # noqa: F401 - registers them
