"""The user behind a session cookie, for code that runs outside Django's request cycle."""

from __future__ import annotations

from importlib import import_module

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.auth.models import AbstractBaseUser, AnonymousUser
from django.http import HttpRequest


def user_of_session(session_key: str) -> AbstractBaseUser | AnonymousUser:
    """Return the session's user as Django's middleware does. Reads the database.

    A changed password or a deactivated account ends the session, as it does there.
    """
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    return get_user(request)
