from django.apps import AppConfig


class SwitcherConfig(AppConfig):
    name = "switcher"
    verbose_name = "Switchboard"
    default_auto_field = "django.db.models.BigAutoField"
