"""Who sends a request, what they may do, and where it comes from."""

from switcher.access.client_address import (
    address_of,
    client_address,
    is_trusted_proxy,
    origin_of,
)
from switcher.access.client_keys import KEY_PREFIX, key_in
from switcher.access.cross_site import is_cross_site, origin_hint
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
from switcher.access.server_names import Request, is_our_name, server_domain
from switcher.access.sessions import user_of_session

__all__ = [
    "AUDITORS",
    "KEY_PREFIX",
    "NOBODY",
    "OPERATORS",
    "Request",
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
    "is_our_name",
    "is_trusted_proxy",
    "key_in",
    "origin_hint",
    "origin_of",
    "server_domain",
    "theme",
    "user_of_session",
]
