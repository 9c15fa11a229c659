"""Handles: copies of what Switchboard loaded, by which a model can be reached whatever becomes of
its name (facts 21, 23, 24). Their names, and telling them from models. Pure: no I/O, no Django.

What bears such a name is not ours for that alone: only the names in our own rows may be written or
deleted. For hiding them where models are listed the name is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from switcher.domain.model_names import NO_NAME, ModelName
from switcher.domain.observed import Installed, Resident

# A namespace of its own, so that whoever reads `ollama list` sees what it is.
NAMESPACE = "switchboard-holds"
MAX_OF_MODEL = 80  # what the server takes as one part of a name
SHORT_DIGEST = 12  # as `ollama list` shows digests
_NOT_OF_A_PART = re.compile(r"[^a-z0-9_.-]+")


def copy_name(model: ModelName, digest: str) -> ModelName:
    """The name of the copy of a model with this digest: `qwen2.5:14b` gives
    `switchboard-holds/qwen2.5-14b:1a2b3c4d5e6f`. In lower case, as the server tells no case apart.
    """
    part = _part(model.short)[:MAX_OF_MODEL]
    tag = _part(digest.removeprefix("sha256:"))[:SHORT_DIGEST]
    return ModelName.parse(f"{NAMESPACE}/{part}:{tag}")


def _part(text: str) -> str:
    """As one part of a name: it begins with a letter, a digit or `_`."""
    return _NOT_OF_A_PART.sub("-", text.lower()).lstrip(".-") or "_"


def is_copy_name(name: ModelName) -> bool:
    """Whether the name is one of a model copy, ours or not: nothing to switch to."""
    return name.key.startswith(f"{NAMESPACE}/")


def without_copies(installed: Iterable[Installed]) -> tuple[Installed, ...]:
    """The models among what is on a disk."""
    return tuple(i for i in installed if not is_copy_name(i.name))


def with_model_names(
    resident: Iterable[Resident], models: Mapping[ModelName, ModelName]
) -> tuple[Resident, ...]:
    """What is resident, by the names people know. Who calls a handle has its name listed
    (fact 21); `models` has what each handle is a copy of."""
    return tuple(replace(r, name=models.get(r.name, r.name)) for r in resident)


def without(installed: Iterable[Installed], name: ModelName) -> tuple[Installed, ...]:
    """Return what is on a disk except for one name."""
    return tuple(i for i in installed if i.name != name)


def find_name(digest: str, name: ModelName, installed: Iterable[Installed]) -> ModelName:
    """A name by which the resident model of this digest is reached: its own while that means its
    content, else any other that does. Empty where none does (facts 23, 24)."""
    names = [i.name for i in installed if i.digest == digest]
    return name if name in names else next(iter(names), NO_NAME)


def what_remains(r: Resident, host: str, now: datetime) -> str:
    """What there is to wait for where no name reaches a resident model."""
    if r.stays or r.expires_at is None:
        when = f"it stays until Ollama on {host} restarts"
    elif r.expires_at <= now:
        when = f"it leaves when its requests have ended, or when Ollama on {host} restarts"
    else:
        far = (r.expires_at - now).days > 0
        at = f"{r.expires_at:%Y-%m-%d %H:%M}" if far else f"{r.expires_at:%H:%M:%S}"
        when = f"it leaves at {at} by itself, or when Ollama on {host} restarts"
    return f"No name on {host} reaches {r.name} any more: {when}."
