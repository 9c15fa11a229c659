"""Who sends a request, what they may do, and where it comes from."""

from switcher.access.client_address import address_of, client_address, origin_of
from switcher.access.client_keys import KEY_PREFIX, key_in
from switcher.access.cross_site import is_cross_site
from switcher.access.roles import (
    AUDITORS,
    NOBODY,
    OPERATORS,
    RoleBackend,
    can_administer,
    can_export,
    can_review,
    can_switch,
    can_view,
    is_admin,
    theme,
)
from switcher.access.sessions import user_of_session

__all__ = [
    "AUDITORS",
    "KEY_PREFIX",
    "NOBODY",
    "OPERATORS",
    "RoleBackend",
    "address_of",
    "can_administer",
    "can_export",
    "can_review",
    "can_switch",
    "can_view",
    "client_address",
    "is_admin",
    "is_cross_site",
    "key_in",
    "origin_of",
    "theme",
    "user_of_session",
]
