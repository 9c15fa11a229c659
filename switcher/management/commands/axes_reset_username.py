"""`axes_reset_username`: a former name of `unlock --name`."""

from switcher.management.commands import unlock


class Command(unlock.Former):
    help = "End the lockouts of these names."
    takes = "name"
