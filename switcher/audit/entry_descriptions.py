"""What an entry of the trail tells, in a sentence. Who did it stands beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from switcher.audit.entry_sentences import SENTENCES, changed_list
from switcher.domain.model_names import ModelName
from switcher.domain.states import ENDED, WORDS, State

Facts = dict[str, Any]

# Longer values are told by the body alone.
MAX_VALUE = 60


def sentence(kind: str, host: str, facts: Facts) -> str:
    """What happened. A kind that is not known here is told by its name."""
    area, _, rest = kind.partition(".")
    tell = _SENTENCES.get(kind) or (_switch if area == "switch" and rest in _STATES else None)
    if tell is None:
        return _by_name(kind, host)
    text = tell(kind, host, facts)
    return f"{text}." if text and not text.endswith((".", "?")) else text


def outcome_words(outcome: str) -> str:
    """How a switch ended, in the words of its page; empty if this entry ends none."""
    return WORDS[State(outcome)] if outcome in _STATES else ""


def look(kind: str, outcome: str) -> str:
    """How an entry looks in a line: ok, failed, warning, or none."""
    if outcome:
        return {"active": "ok", "cancelled": "none"}.get(outcome, "failed")
    if kind in {"audit.alarm", "audit.seal-remade"}:
        return "failed"
    return "warning" if kind.endswith(_WARNINGS) else ""


def model_of(name: Any) -> str:
    """A model as people write it."""
    return ModelName.parse(str(name or "")).short


_STATES = {state.value for state in State}
_WARNINGS = (".failed", ".refused", ".locked-out", ".lost", "drift.seen", "drift.flapping")
_PHASES = {
    State.CHECKING: "Checked {host} before the switch to {model}",
    State.DRAINING: "Let running requests on {host} end, before {model} is loaded",
    State.LOADING: "Began to load {model} on {host}",
    State.WARMING: "Began to warm {model} up on {host}",
    State.VERIFYING: "Began to verify {model} on {host}",
    State.ACTIVATING: "{model} was verified on {host}",
    State.UNLOADING: "Began to unload on {host}, for the switch to {model}",
    State.RESTORING: "Began to restore what {host} held before",
}


def _switch(kind: str, host: str, facts: Facts) -> str:
    state, model = State(kind.removeprefix("switch.")), model_of(facts.get("model"))
    if state is State.QUEUED:
        before = model_of(facts.get("previous"))
        instead = f" instead of {before}" if before and before != model else ""
        return f"Asked {host} to switch to {model}{instead}"
    if state in ENDED:
        told = str(facts.get("outcome") or "")
        return told or f"The switch of {host} to {model} ended: {WORDS[state].lower()}"
    return _PHASES[state].format(host=host, model=model)


def _activated(kind: str, host: str, facts: Facts) -> str:
    model, before = model_of(facts.get("model")), model_of(facts.get("previous"))
    instead = f", instead of {before}" if before and before != model else ""
    return f"{model} became the active model of {host}{instead}"


def _added(kind: str, host: str, facts: Facts) -> str:
    return f"Added {_thing(kind, host, facts)}"


def _changed(kind: str, host: str, facts: Facts) -> str:
    if told_list := changed_list(facts):
        return f"Changed {_thing(kind, host, facts)}: {told_list}"
    before, after = facts.get("before"), facts.get("after")
    if not isinstance(before, dict) or not isinstance(after, dict):
        return f"Changed {_thing(kind, host, facts)}"
    told = [f"{_field(n)} {_value(before.get(n))} → {_value(after[n])}" for n in after]
    return f"Changed {_thing(kind, host, facts)}: {', '.join(told)}"


def _deleted(kind: str, host: str, facts: Facts) -> str:
    return f"Deleted {_thing(kind, host, facts)}"


def _removed(kind: str, host: str, facts: Facts) -> str:
    return f"Took {host} off the board"


def _preloaded(kind: str, host: str, facts: Facts) -> str:
    return f"Pinned on {host}: {_value(facts.get('before'))} → {_value(facts.get('after'))}"


def _names(kind: str, host: str, facts: Facts) -> str:
    return f"Changed by which names clients of {host} get profiles: {changed_list(facts)}"


def _drifted(kind: str, host: str, facts: Facts) -> str:
    """In the words of the watcher, which may name the host or not."""
    text = str(facts.get("text") or f"drift: {facts.get('drift') or 'unknown'}")
    return text if host in text else f"On {host}: {text}"


def _drift_ended(kind: str, host: str, facts: Facts) -> str:
    what = " ".join(str(facts[n]) for n in ("drift", "model") if facts.get(n))
    return f"Drift on {host} ended ({what}): {facts.get('ending') or 'it is gone'}"


def _key_made(kind: str, host: str, facts: Facts) -> str:
    may = ", which may manage models" if facts.get("manage") else ""
    return f"Made the key {_key(facts)}{may}"


def _key_off(kind: str, host: str, facts: Facts) -> str:
    return f"Turned the key {_key(facts)} off"


def _key(facts: Facts) -> str:
    return f"{facts.get('name') or '?'} ({facts.get('prefix') or '?'}…)"


def _thing(kind: str, host: str, facts: Facts) -> str:
    area = kind.partition(".")[0]
    return f"{area} {host or facts.get(area) or facts.get('name') or ''}".strip()


def _field(name: str) -> str:
    return name.replace("_", " ")


def _value(value: Any) -> str:
    if value in (None, "", [], {}):
        return "nothing"
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return ", ".join(value)
    if isinstance(value, dict | list):
        return f"{len(value)} value{'s' if len(value) != 1 else ''}"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}…"


def _checked(kind: str, host: str, facts: Facts) -> str:
    if facts.get("error"):
        return "The audit trail could not be verified"
    verdict = "it is intact, anchored and complete"
    if not facts.get("ok"):
        verdicts = facts.get("verdicts") or {}
        verdict = "it is not " + " and not ".join(n for n, holds in verdicts.items() if not holds)
    return f"Verified {_many(facts.get('entries'), 'entry', 'entries')} of the trail: {verdict}"


def _reviewed(kind: str, host: str, facts: Facts) -> str:
    told = facts.get("entries")
    seqs = [row.get("seq") for row in told] if isinstance(told, list) else []
    if len(seqs) == 1:
        return f"Reviewed entry {seqs[0]}"
    return f"Reviewed {len(seqs)} entries, {min(seqs)} to {max(seqs)}" if seqs else "Reviewed"


def _export_began(kind: str, host: str, facts: Facts) -> str:
    return f"Began to export {_which(facts)} as {str(facts.get('format')).upper()}"


def _exported(kind: str, host: str, facts: Facts) -> str:
    many = _many(facts.get("entries"), "entry", "entries")
    if not facts.get("whole"):
        return f"An export of {_which(facts)} was cut off after {many}"
    return f"Exported {many} as {str(facts.get('format')).upper()}"


def _archived(kind: str, host: str, facts: Facts) -> str:
    first, last = facts.get("first") or "?", facts.get("last") or "?"
    return f"Moved entries {first} to {last} to {facts.get('file') or 'a file'}"


def _erased(kind: str, host: str, facts: Facts) -> str:
    many = _many(facts.get("places"), "address and browser", "addresses and browsers")
    return f"Erased {many} of {facts.get('person') or '?'}"


def _which(facts: Facts) -> str:
    chosen = facts.get("filter")
    if not isinstance(chosen, dict) or not chosen:
        return "the whole trail"
    return "entries with " + ", ".join(f"{n} {_value(v)}" for n, v in chosen.items())


def _many(count: Any, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}" if isinstance(count, int) else more


def _by_name(kind: str, host: str) -> str:
    words = kind.replace(".", ": ").replace("-", " ").replace("_", " ")
    return f"{words[:1].upper()}{words[1:]}{f', {host}' if host else ''}."


def _fixed(text: str) -> Callable[[str, str, Facts], str]:
    return lambda kind, host, facts: text.format(host=host)


_SENTENCES: dict[str, Callable[[str, str, Facts], str]] = {
    **SENTENCES,
    "user.added": _added,
    "user.changed": _changed,
    "user.deleted": _deleted,
    "group.added": _added,
    "group.changed": _changed,
    "group.deleted": _deleted,
    "switch.cancel-asked": _fixed("Asked to cancel the switch on {host}"),
    "switch.seen": _fixed("Looked at the failed switch on {host}"),
    "host.activated": _activated,
    "host.added": _added,
    "host.changed": _changed,
    "host.removed": _removed,
    "host.preloaded": _preloaded,
    "host.names": _names,
    "drift.seen": _drifted,
    "drift.flapping": _drifted,
    "drift.ended": _drift_ended,
    "key.made": _key_made,
    "key.off": _key_off,
    "profile.added": _added,
    "profile.changed": _changed,
    "profile.deleted": _deleted,
    "audit.key-made": _fixed("Made the key that signs the audit trail"),
    "audit.key-rotated": _fixed("A new key signs the audit trail; the old one vouches for it"),
    "audit.alarm": lambda kind, host, facts: (
        f"Alarm: something is wrong with the {facts.get('about') or 'audit trail'}"
    ),
    "audit.checked": _checked,
    "audit.seal-remade": _fixed("Seals of the database were made again"),
    "audit.index-rebuilt": _fixed("Made the index of the audit trail again"),
    "audit.reviewed": _reviewed,
    "audit.export-began": _export_began,
    "audit.exported": _exported,
    "audit.archived": _archived,
    "audit.erased": _erased,
}
