"""Model copies: they reach a loaded model even if its own name is gone or points elsewhere (facts
21, 23, 24). This module makes their names, and tells copies from models.

A copy is ours only if our rows say so: only those names are written or deleted without being
asked. Others, which an earlier data directory or another tool left, are adopted if their content is
the one to keep. To hide copies from lists of models, the form of the name is enough. Pure: no I/O,
no Django.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from switcher.domain.model_names import NO_NAME, ModelName
from switcher.domain.observed import Installed, Resident

# A namespace of its own, so that people who read `ollama list` see what it is.
NAMESPACE = "switchboard-holds"
MAX_PART = 80  # characters in one part of a name
SHORT_DIGEST = 12  # as `ollama list` shows digests
_NOT_OF_A_PART = re.compile(r"[^a-z0-9_.-]+")


def copy_name(model: ModelName, digest: str) -> ModelName:
    """Return the name for a copy of a model with this digest: `qwen2.5:14b` gives
    `switchboard-holds/qwen2.5-14b:1a2b3c4d5e6f`."""
    part = _part(model.short)[:MAX_PART]
    tag = _part(digest.removeprefix("sha256:"))[:SHORT_DIGEST]
    return ModelName.parse(f"{NAMESPACE}/{part}:{tag}")


def _part(text: str) -> str:
    """Return the text as one part of a name, which must begin with a letter, a digit or `_`."""
    return _NOT_OF_A_PART.sub("-", text.lower()).lstrip(".-") or "_"


def is_copy_name(name: ModelName) -> bool:
    """Return whether this is the name of a model copy, ours or not. Nobody can switch to one."""
    return name.key.startswith(f"{NAMESPACE}/")


def without_copies(installed: Iterable[Installed]) -> tuple[Installed, ...]:
    """Return the installed models without the model copies."""
    return tuple(i for i in installed if not is_copy_name(i.name))


def left_over(
    installed: Iterable[Installed], recorded: Iterable[ModelName]
) -> tuple[Installed, ...]:
    """Return the model copies that are not recorded as ours."""
    ours = set(recorded)
    return tuple(i for i in installed if is_copy_name(i.name) and i.name not in ours)


def find_copy(installed: Iterable[Installed], digest: str) -> Installed | None:
    """Return a model copy with this digest, whoever made it."""
    return next((i for i in installed if i.digest == digest and is_copy_name(i.name)), None)


def with_model_names(
    resident: Iterable[Resident], models: Mapping[ModelName, ModelName]
) -> tuple[Resident, ...]:
    """Return the resident models under the names that people know. `models` maps each copy's name
    to its model's: a model that was first loaded through a copy is listed by the copy's name (fact
    21)."""
    return tuple(replace(r, name=models.get(r.name, r.name)) for r in resident)


def without(installed: Iterable[Installed], name: ModelName) -> tuple[Installed, ...]:
    """Return the installed models without the one of this name."""
    return tuple(i for i in installed if i.name != name)


def find_name(digest: str, name: ModelName, installed: Iterable[Installed]) -> ModelName:
    """Return a name that reaches the resident model with this digest: its own `name` if that points
    to its content, else any other name that does, else the empty name (facts 23, 24)."""
    found = find_content(digest, name, installed)
    return found.name if found else NO_NAME


def find_content(digest: str, name: ModelName, installed: Iterable[Installed]) -> Installed | None:
    """Return the installed model with this digest, under its own `name` if that points to it; None
    if no name does. Any other name of a cloud model reaches no content here (fact 20)."""
    rows = [i for i in installed if i.digest == digest and (i.name == name or not i.name.is_cloud)]
    return next((i for i in rows if i.name == name), next(iter(rows), None))


def with_content(
    installed: Iterable[Installed], name: ModelName, digest: str
) -> tuple[Installed, ...]:
    """Return the installed models as if `name` still pointed to the content with this digest;
    without the name if nothing reaches that content."""
    rows = tuple(installed)
    found = find_content(digest, name, rows)
    others = without(rows, name)
    return (*others, replace(found, name=name)) if found else others


def what_remains(r: Resident, host: str, now: datetime) -> str:
    """Return when a resident model that no name reaches will leave, as a sentence."""
    if r.stays or r.expires_at is None:
        when = f"it stays loaded until Ollama on {host} restarts"
    elif r.expires_at <= now:
        when = f"it is unloaded when its requests have ended, or when Ollama on {host} restarts"
    else:
        far = (r.expires_at - now).days > 0
        at = f"{r.expires_at:%Y-%m-%d %H:%M}" if far else f"{r.expires_at:%H:%M:%S}"
        when = f"it is unloaded at {at}, or when Ollama on {host} restarts"
    return f"No name on {host} reaches {r.name} any more: {when}."
