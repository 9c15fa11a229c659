"""The project as an app: for its commands, which come before daphne's."""

from django.apps import AppConfig


class ProjectConfig(AppConfig):
    name = "project"
    label = "switchboard_project"
    verbose_name = "Switchboard, assembled"
