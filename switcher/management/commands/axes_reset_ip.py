"""`axes_reset_ip`: a former name of `unlock --address`."""

from switcher.management.commands import unlock


class Command(unlock.Former):
    help = "End the lockouts of these addresses."
    takes = "address"
