"""Sentences of entries about people, processes and held models. Who did it stands beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from switcher.domain.model_names import ModelName

Facts = dict[str, Any]
Sentence = Callable[[str, str, Facts], str]


def _fixed(text: str) -> Sentence:
    return lambda kind, host, facts: text


def _login_failed(kind: str, host: str, facts: Facts) -> str:
    told = {
        "no such account": "Somebody tried to sign in under a name that is no account",
        "switched off": "Somebody tried to sign in under this name; the account is switched off",
    }
    return told.get(str(facts.get("why")), "Somebody failed to sign in under this name")


def _locked_out(kind: str, host: str, facts: Facts) -> str:
    where = {
        "name and address": "under this name from this address",
        "address": "from this address",
        "name": "under this name",
    }.get(str(facts.get("locked")), "here")
    # From 2026-11-24T14:32:07.000000Z: the day stands beside the entry.
    until = f"{str(facts.get('until'))[11:16]} UTC"
    return f"Too many failed: signing in {where} is locked until {until}"


def _unlocked(kind: str, host: str, facts: Facts) -> str:
    account = facts.get("account")
    return f"Ended lockouts{f' of {account}' if account else ''}"


def _password(kind: str, host: str, facts: Facts) -> str:
    if facts.get("usable") is False:
        return f"Took the password of {facts.get('user')} away"
    return f"Changed the password of {facts.get('user')}"


def changed_list(facts: Facts) -> str:
    """What came to a list and what left it, where that is all that changed: `groups + auditors`."""
    before, after = facts.get("before"), facts.get("after")
    if not isinstance(before, dict) or not isinstance(after, dict) or len(after) != 1:
        return ""
    ((field, now),) = after.items()
    was = before.get(field)
    if not isinstance(was, list) or not isinstance(now, list):
        return ""
    come, gone = sorted(set(now) - set(was)), sorted(set(was) - set(now))
    parts = [f"{field} + {', '.join(come)}"] if come else []
    parts += [f"{field} − {', '.join(gone)}"] if gone else []
    return "; ".join(parts)


def _version(kind: str, host: str, facts: Facts) -> str:
    before, after = facts.get("before"), facts.get("after")
    return (
        f"{host} went from Ollama {before} to {after}" if before else f"{host} has Ollama {after}"
    )


def _default(kind: str, host: str, facts: Facts) -> str:
    before = facts.get("before")
    return f"{host} became the default host{f', instead of {before}' if before else ''}"


def _process(text: str) -> Sentence:
    def tell(kind: str, host: str, facts: Facts) -> str:
        what = "A gateway process" if facts.get("role") == "gateway" else "The server"
        return f"{what}, version {facts.get('version')}, {text}"

    return tell


def _key_refused(kind: str, host: str, facts: Facts) -> str:
    what = f"The key {facts['name']}" if facts.get("name") else "A key"
    more = facts.get("more")
    since = f". {more:,} more since the last such entry" if isinstance(more, int) and more else ""
    return f"{what} was refused at the gateway: {facts.get('why')}{since}"


def _about_model(text: str) -> Sentence:
    def tell(kind: str, host: str, facts: Facts) -> str:
        return text.format(model=ModelName.parse(str(facts.get("model") or "a model")), host=host)

    return tell


def _pointed(kind: str, host: str, facts: Facts) -> str:
    before = ModelName.parse(str(facts.get("previous") or ""))
    instead = f", instead of {before}" if before else ""
    model = ModelName.parse(str(facts.get("model") or "?"))
    return f"Pointed {_published(facts)} on {host} at {model}{instead}"


def _withdrawn(kind: str, host: str, facts: Facts) -> str:
    return f"Took {_published(facts)} off {host}"


def _published(facts: Facts) -> str:
    return f"the published name {ModelName.parse(str(facts.get('name') or '?'))}"


SENTENCES: dict[str, Sentence] = {
    "login.succeeded": _fixed("Signed in"),
    "login.ended": _fixed("Signed out"),
    "login.failed": _login_failed,
    "login.locked-out": _locked_out,
    "login.unlocked": _unlocked,
    "user.password-changed": _password,
    "host.default": _default,
    "host.version": _version,
    "handle.claimed": _about_model("Holds {model} on {host} by a copy of its name"),
    "handle.released": _about_model("Removed the copy that held {model} on {host}"),
    "ghost.unload-asked": _about_model("Asked {host} to unload the ghost {model}"),
    "ghost.freed": _about_model("Freed the ghost {model} on {host}"),
    "name.pointed": _pointed,
    "name.withdrawn": _withdrawn,
    "key.refused": _key_refused,
    "server.started": _process("started"),
    "server.stopped": _process("stopped"),
    "server.lost": _process("had ended without a stop: killed, or cut off"),
}
