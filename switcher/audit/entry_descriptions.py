"""Describes what an entry of the trail records, in one sentence without the actor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from switcher.domain.model_names import ModelName
from switcher.domain.states import ENDED, WORDS, State

Facts = dict[str, Any]
Describe = Callable[[str, Facts], str]

# Longer values are cut here; the entry's body has them in full.
MAX_VALUE = 60

_STATES = {state.value for state in State}
_WARNINGS = (
    ".failed",
    ".refused",
    ".locked-out",
    ".lost",
    ".clock-set",
    "drift.seen",
    "drift.flapping",
)


def describe(kind: str, host: str, facts: Facts) -> str:
    """Return what happened. An unknown kind is described by its name."""
    area, _, state = kind.partition(".")
    if kind in _TEXTS:
        text = _TEXTS[kind].format_map(_words(area, host, facts))
    elif kind in _FUNCTIONS:
        text = _FUNCTIONS[kind](host, facts)
    elif area == "switch" and state in _STATES:
        text = _switch(State(state), host, facts)
    else:
        return _by_name(kind, host)
    return f"{text}." if text and not text.endswith((".", "?")) else text


def _words(area: str, host: str, facts: Facts) -> dict[str, Any]:
    """Return the values for the placeholders of `_TEXTS`."""
    return facts | {
        "host": host,
        "model": short_model(facts.get("model") or "a model"),
        "subject": _subject(area, host, facts),
        "published": _published(facts),
        "key": _key(facts),
        "process": "A gateway process" if facts.get("role") == "gateway" else "The server",
        "version": facts.get("version"),
        "first": facts.get("first") or "?",
        "last": facts.get("last") or "?",
        "file": facts.get("file") or "a file",
    }


def outcome_text(outcome: str) -> str:
    """Return how a switch ended, in the words of its page; empty if the entry does not end a
    switch."""
    return WORDS[State(outcome)] if outcome in _STATES else ""


def status_style(kind: str, outcome: str) -> str:
    """Return how a list marks an entry: ok, failed, warning, none or empty."""
    if outcome:
        return {"active": "ok", "cancelled": "none"}.get(outcome, "failed")
    if kind in {"audit.alarm", "audit.seal-remade"}:
        return "failed"
    return "warning" if kind.endswith(_WARNINGS) else ""


def short_model(name: Any) -> str:
    """Return a model's name as people write it."""
    return ModelName.parse(str(name or "")).short


def _by_name(kind: str, host: str) -> str:
    words = kind.replace(".", ": ").replace("-", " ").replace("_", " ")
    return f"{words[:1].upper()}{words[1:]}{f', {host}' if host else ''}."


# -- Switches

_PHASES = {
    State.CHECKING: "Checked {host} before the switch to {model}",
    State.DRAINING: "Let running requests on {host} finish before {model} is loaded",
    State.LOADING: "Began to load {model} on {host}",
    State.WARMING: "Began to warm up {model} on {host}",
    State.VERIFYING: "Began to verify {model} on {host}",
    State.ACTIVATING: "Verified {model} on {host}",
    State.UNLOADING: "Began to unload models on {host} for the switch to {model}",
    State.RESTORING: "Began to restore the models that {host} held before",
}


def _switch(state: State, host: str, facts: Facts) -> str:
    model = short_model(facts.get("model"))
    if state is State.QUEUED:
        return f"Asked {host} to switch to {model}{_instead(facts, model)}"
    if state not in ENDED:
        return _PHASES[state].format(host=host, model=model)
    ended = f"The switch of {host} to {model} ended: {WORDS[state].lower()}"
    return str(facts.get("outcome") or ended)


def _activated(host: str, facts: Facts) -> str:
    model = short_model(facts.get("model"))
    if not model:
        before = short_model(facts.get("previous") or "?")
        return f"Unloaded {before} from {host} on purpose: no model is active there"
    comma = "," if _instead(facts, model) else ""
    return f"{model} became the active model of {host}{comma}{_instead(facts, model)}"


def _instead(facts: Facts, model: str) -> str:
    before = short_model(facts.get("previous"))
    return f" instead of {before}" if before and before != model else ""


def _pointed(host: str, facts: Facts) -> str:
    model, before = short_model(facts.get("model") or "?"), short_model(facts.get("previous"))
    instead = f", instead of {before}" if before else ""
    return f"Pointed {_published(facts)} on {host} at {model}{instead}"


def _published(facts: Facts) -> str:
    return f"the published name {short_model(facts.get('name') or '?')}"


# -- Configuration


def _changed(area: str) -> Describe:
    def text(host: str, facts: Facts) -> str:
        changes = _list_changes(facts) or _value_changes(facts)
        return f"Changed {_subject(area, host, facts)}{f': {changes}' if changes else ''}"

    return text


def _subject(area: str, host: str, facts: Facts) -> str:
    return f"{area} {host or facts.get(area) or facts.get('name') or ''}".strip()


def _list_changes(facts: Facts) -> str:
    """Return what was added to or removed from a list, such as `groups + auditors`; empty if
    anything else changed as well."""
    before, after = facts.get("before"), facts.get("after")
    if not isinstance(before, dict) or not isinstance(after, dict) or len(after) != 1:
        return ""
    ((field, now),) = after.items()
    was = before.get(field)
    if not isinstance(was, list) or not isinstance(now, list):
        return ""
    added, removed = sorted(set(now) - set(was)), sorted(set(was) - set(now))
    parts = [f"{field} + {', '.join(added)}"] if added else []
    parts += [f"{field} − {', '.join(removed)}"] if removed else []
    return "; ".join(parts)


def _value_changes(facts: Facts) -> str:
    before, after = facts.get("before"), facts.get("after")
    if not isinstance(before, dict) or not isinstance(after, dict):
        return ""
    changes = [
        f"{name.replace('_', ' ')} {_value(before.get(name))} → {_value(now)}"
        for name, now in after.items()
    ]
    return ", ".join(changes)


def _value(value: Any) -> str:
    if value in (None, "", [], {}):
        return "nothing"
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return ", ".join(value)
    if isinstance(value, dict | list):
        return f"{len(value)} value{'s' if len(value) != 1 else ''}"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}…"


def _pinned(host: str, facts: Facts) -> str:
    before, after = _value(facts.get("before")), _value(facts.get("after"))
    return f"Changed the pinned profiles of {host}: {before} → {after}"


def _aliases(host: str, facts: Facts) -> str:
    changes = _list_changes(facts)
    return f"Changed the aliases of {host}{f': {changes}' if changes else ''}"


def _version(host: str, facts: Facts) -> str:
    before, after = facts.get("before"), facts.get("after")
    if before:
        return f"{host} went from Ollama {before} to {after}"
    return f"{host} runs Ollama {after}"


def _default(host: str, facts: Facts) -> str:
    before = facts.get("before")
    return f"{host} became the default host{f', instead of {before}' if before else ''}"


# -- Drift


def _drift(host: str, facts: Facts) -> str:
    """Describe drift in the watcher's words, which may or may not name the host."""
    text = str(facts.get("text") or f"drift: {facts.get('drift') or 'unknown'}")
    return text if host in text else f"On {host}: {text}"


def _drift_ended(host: str, facts: Facts) -> str:
    what = " ".join(str(facts[name]) for name in ("drift", "model") if facts.get(name))
    return f"Drift on {host} ended ({what}): {facts.get('ending') or 'it is gone'}"


# -- People, keys and processes


def _login_failed(host: str, facts: Facts) -> str:
    reasons = {
        "no such account": ": there is no account of this name",
        "switched off": ": the account is switched off",
    }
    return f"Failed to sign in{reasons.get(str(facts.get('why')), '')}"


def _locked_out(host: str, facts: Facts) -> str:
    locked = {
        "name and address": "with this name from this address",
        "address": "from this address",
        "name": "with this name",
    }.get(str(facts.get("locked")), "here")
    # The list already shows the day of 2026-11-24T14:32:07.000000Z.
    until = f"{str(facts.get('until'))[11:16]} UTC"
    return f"Too many sign-ins failed: signing in {locked} is locked until {until}"


def _unlocked(host: str, facts: Facts) -> str:
    account = facts.get("account")
    return f"Ended lockouts{f' of {account}' if account else ''}"


def _password(host: str, facts: Facts) -> str:
    act = "Removed" if facts.get("usable") is False else "Changed"
    return f"{act} the password of {facts.get('user')}"


def _key_made(host: str, facts: Facts) -> str:
    scopes = {"manage": "manage models", "may_switch": "switch models"}
    may = " and ".join(words for scope, words in scopes.items() if facts.get(scope))
    return f"Made {_key(facts)}{f', which may {may}' if may else ''}"


def _key(facts: Facts) -> str:
    return f"the key {facts.get('name') or '?'} ({facts.get('prefix') or '?'}…)"


def _clock_set(host: str, facts: Facts) -> str:
    seconds = facts.get("seconds", 0)
    if isinstance(seconds, int) and seconds < 0:
        return f"The server's clock was set back by {-seconds} s. Times overlap here."
    return f"The server's clock went ahead by {seconds} s: it was set, or the machine slept."


def _key_refused(host: str, facts: Facts) -> str:
    key = f"The key {facts['name']}" if facts.get("name") else "A key"
    more = facts.get("more")
    since = f". {more:,} more since the last such entry" if isinstance(more, int) and more else ""
    return f"{key} was refused at the gateway: {facts.get('why')}{since}"


# -- The trail itself


def _checked(host: str, facts: Facts) -> str:
    if facts.get("error"):
        return "The audit trail could not be verified"
    verdict = "it is intact, anchored and complete"
    if not facts.get("ok"):
        verdicts = facts.get("verdicts") or {}
        failed = [name for name, holds in verdicts.items() if not holds]
        verdict = f"it is not {' and not '.join(failed)}"
    return f"Verified {_many(facts.get('entries'), 'entry', 'entries')} of the trail: {verdict}"


def _reviewed(host: str, facts: Facts) -> str:
    rows = facts.get("entries")
    seqs = [row.get("seq") for row in rows] if isinstance(rows, list) else []
    if len(seqs) == 1:
        return f"Reviewed entry {seqs[0]}"
    return f"Reviewed {len(seqs)} entries, {min(seqs)} to {max(seqs)}" if seqs else "Reviewed"


def _export_began(host: str, facts: Facts) -> str:
    return f"Began to export {_exported_entries(facts)} as {str(facts.get('format')).upper()}"


def _exported(host: str, facts: Facts) -> str:
    count = _many(facts.get("entries"), "entry", "entries")
    if not facts.get("whole"):
        return f"An export of {_exported_entries(facts)} was cut off after {count}"
    return f"Exported {count} as {str(facts.get('format')).upper()}"


def _exported_entries(facts: Facts) -> str:
    filters = facts.get("filter")
    if not isinstance(filters, dict) or not filters:
        return "the whole trail"
    return "entries with " + ", ".join(f"{n} {_value(v)}" for n, v in filters.items())


def _erased(host: str, facts: Facts) -> str:
    count = _many(facts.get("places"), "address and browser", "addresses and browsers")
    return f"Erased {count} of {facts.get('person') or '?'}"


def _many(count: Any, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}" if isinstance(count, int) else more


_TEXTS = {
    "switch.cancel-asked": "Asked to cancel the switch on {host}",
    "switch.seen": "Looked at the failed switch on {host}",
    "handle.claimed": "Made a model copy to keep {model} on {host}",
    "handle.released": "Removed the model copy that kept {model} on {host}",
    "handle.dropped": "Removed the left-over model copy {model} from {host}",
    "ghost.unload-asked": "Asked {host} to unload the ghost {model}",
    "ghost.freed": "Unloaded the ghost {model} on {host}",
    "host.access": "Changed the credentials or certificates for {host}",
    "host.woken": "Sent {host} a packet that wakes it",
    "host.unloaded": "{model} left the memory of {host}",
    "host.removed": "Removed {host} from the board",
    "login.succeeded": "Signed in",
    "login.ended": "Signed out",
    "audit.key-made": "Made the key that signs the audit trail",
    "audit.key-rotated": "A new key signs the audit trail; the old one vouches for it",
    "audit.alarm": "Alarm: something is wrong with the audit trail",
    "audit.seal-remade": "Made missing or altered seals of the database again",
    "audit.index-rebuilt": "Rebuilt the search index of the audit trail",
    "audit.archived": "Moved entries {first} to {last} to {file}",
    "user.added": "Added {subject}",
    "user.deleted": "Deleted {subject}",
    "group.added": "Added {subject}",
    "group.deleted": "Deleted {subject}",
    "host.added": "Added {subject}",
    "profile.added": "Added {subject}",
    "profile.deleted": "Deleted {subject}",
    "name.withdrawn": "Removed {published} from {host}",
    "key.off": "Turned off {key}",
    "server.started": "{process}, version {version}, started",
    "server.stopped": "{process}, version {version}, stopped",
    "server.lost": "{process}, version {version}, ended without stopping: it was killed or cut off",
}

_FUNCTIONS: dict[str, Describe] = {
    "user.changed": _changed("user"),
    "user.password-changed": _password,
    "group.changed": _changed("group"),
    "login.failed": _login_failed,
    "login.locked-out": _locked_out,
    "login.unlocked": _unlocked,
    "host.activated": _activated,
    "host.changed": _changed("host"),
    "host.preloaded": _pinned,
    "host.names": _aliases,
    "host.default": _default,
    "host.version": _version,
    "name.pointed": _pointed,
    "drift.seen": _drift,
    "drift.flapping": _drift,
    "drift.ended": _drift_ended,
    "profile.changed": _changed("profile"),
    "key.made": _key_made,
    "key.refused": _key_refused,
    "server.clock-set": _clock_set,
    "audit.checked": _checked,
    "audit.reviewed": _reviewed,
    "audit.export-began": _export_began,
    "audit.exported": _exported,
    "audit.erased": _erased,
}
