"""The project as an app, so that its commands take precedence over daphne's."""

from django.apps import AppConfig


class ProjectConfig(AppConfig):
    name = "project"
    label = "switchboard_project"
    verbose_name = "Switchboard, assembled"
