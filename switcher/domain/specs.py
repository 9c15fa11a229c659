"""What a profile holds, how it is checked, and how it is sent to the server.

A switch works from a Spec that is frozen when it is requested: editing or deleting the profile does
not change a running switch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from switcher.domain.errors import BadRequest
from switcher.domain.model_copies import is_copy_name
from switcher.domain.model_names import ModelName

Option = int | float | bool | str

# These belong to the runner: a different value reloads the model (fact 12).
RUNNER_OPTIONS: dict[str, type] = {
    "num_ctx": int,
    "num_batch": int,
    "num_gpu": int,
    "main_gpu": int,
    "num_thread": int,
    "use_mmap": bool,
}
# These reload nothing (fact 11).
SAMPLING_OPTIONS: dict[str, type] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repeat_penalty": float,
    "seed": int,
}
KNOWN_OPTIONS = RUNNER_OPTIONS | SAMPLING_OPTIONS

FOREVER = "forever"
MAX_TAG = 200
MAX_KEEP_ALIVE = 20
MAX_WARMUPS, MAX_PROMPT, MAX_PREDICT = 8, 4000, 512
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
# As Go's time.ParseDuration reads it. Days and weeks, which it does not know, are kept as hours.
_UNIT_S = {
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ns": 1e-9,
}
_DAYS_H = {"d": 24, "w": 168}
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_PART = re.compile(rf"({_NUMBER})([mnuµμ]s|[wdhms])", re.ASCII)
_DURATION = re.compile(rf"[+-]?(?:{_NUMBER}(?:[mnuµμ]s|[wdhms]))+", re.ASCII)
_PLAIN = re.compile(rf"([+-]?){_NUMBER}", re.ASCII)
_WORDY = re.compile(rf"({_NUMBER})\s*([a-z]+)", re.ASCII)
_FOREVER_WORDS = {"forever", "for ever", "always", "infinite", "infinity", "inf", "∞", "never"}
# What a Go duration can hold, and the shortest that is not rounded to zero.
_LONGEST_S = 2_562_047 * 3600.0
_SHORTEST_S = 1e-9
# A switch needs this long to verify a model after its last warm-up prompt.
MIN_ACTIVE_S = 1.0


def check_name(name: str) -> str:
    """Return the name of a host or a profile if it is valid. Raises BadRequest."""
    if not _NAME.fullmatch(name):
        text = "Use lower-case letters, digits and hyphens, for example north-1."
        raise BadRequest(text, "name")
    return name


def check_tag(tag: str) -> str:
    """Return the name of a model without the parts that Ollama assumes anyway: `library/mid-a`
    becomes `mid-a`. Raises BadRequest if Ollama would refuse it, and for model copies."""
    name = ModelName.of_request(tag)
    is_tagged = tag.strip().lower().endswith(name.key)
    tag = name.full if is_tagged else name.short
    if len(tag) > MAX_TAG or not name.is_valid:
        raise BadRequest(
            "That is not a model name. Write it as Ollama lists it, for example qwen2.5:14b.",
            "model",
        )
    if is_copy_name(name):
        raise BadRequest(
            f"{tag} is a copy that Switchboard keeps to be able to unload a model. "
            "Name the model itself.",
            "model",
        )
    return tag


def check_published(name: str) -> str:
    """Return a published name in full and in lower case; empty for none. Raises BadRequest."""
    return ModelName.parse(check_tag(name)).key if name.strip() else ""


def check_keep_alive(text: str) -> str:
    """Return a keep-alive as it is stored: `0`, `forever`, or a Go duration such as `30m`.

    Any negative value means forever. A number without a unit is refused, since it may mean seconds
    or minutes; the server refuses it, too, if it is quoted (fact 7). Raises BadRequest, which says
    what to write instead.
    """
    text = text.strip().lower()
    if text in _FOREVER_WORDS:
        return FOREVER
    if len(text) <= MAX_KEEP_ALIVE and (plain := _PLAIN.fullmatch(text)):
        if float(text) == 0:
            return "0"
        if plain[1] == "-":
            return FOREVER
    if len(text) <= MAX_KEEP_ALIVE and _DURATION.fullmatch(text):
        seconds = keep_alive_s(text) or 0.0
        if seconds == 0:
            return "0"
        if _SHORTEST_S <= seconds <= _LONGEST_S:
            return FOREVER if text[0] == "-" else _in_go_units(text.removeprefix("+"))
    raise BadRequest(_keep_alive_advice(text), "keep_alive")


def _in_go_units(text: str) -> str:
    parts = _PART.findall(text)
    hours = sum(float(number) * _DAYS_H[unit] for number, unit in parts if unit in _DAYS_H)
    rest = "".join(number + unit for number, unit in parts if unit not in _DAYS_H)
    return f"{hours:.6g}h{rest}" if hours else rest


def _keep_alive_advice(text: str) -> str:
    if len(text) <= MAX_KEEP_ALIVE and _PLAIN.fullmatch(text):
        number = text.lstrip("+")
        return f"{text} has no unit. Write {number}s for seconds or {number}m for minutes."
    wordy = _WORDY.fullmatch(text) if len(text) <= MAX_KEEP_ALIVE else None
    if wordy and wordy[2][0] in "smhdw":
        return f"{text} is not a keep-alive. Write {_in_go_units(wordy[1] + wordy[2][0])}."
    return "Write a number and a unit, for example 30m, 24h or forever; 0 unloads after each use."


def keep_alive_s(text: str) -> float | None:
    """Return the seconds of a checked keep-alive; None for `forever`."""
    if text == FOREVER:
        return None
    hours = {unit: 3600.0 * n for unit, n in _DAYS_H.items()}
    return sum(float(n) * (hours | _UNIT_S)[unit] for n, unit in _PART.findall(text))


def check_keeps_active(keep_alive: str, source: str) -> None:
    """Raise BadRequest if a model with this keep-alive leaves before it can be verified, so that
    it can never stay active. `source` says where the keep-alive comes from."""
    seconds = keep_alive_s(keep_alive)
    if seconds is None or seconds >= MIN_ACTIVE_S:
        return
    what = "unloads a model after each use" if not seconds else "unloads it at once"
    raise BadRequest(
        f"A keep-alive of {keep_alive} {what}, so the model could not stay loaded. {source} "
        "Write for example 30m or forever.",
        "keep_alive",
    )


def wire_keep_alive(text: str) -> str | int:
    """Return the form that the server accepts: forever is the *number* -1, never the string (fact
    7)."""
    if text == FOREVER:
        return -1
    return 0 if text == "0" else text


def check_options(options: object) -> dict[str, Option]:
    """Return the checked runner and sampling options. Raises BadRequest, which names the wrong
    one."""
    if not isinstance(options, dict):
        raise BadRequest('Write options as JSON, for example {"num_ctx": 8192}.', "options")
    checked: dict[str, Option] = {}
    for name, value in options.items():
        checked[str(name)] = _check_option(str(name), value)
    return checked


def check_num_ctx(text: str) -> dict[str, Option]:
    """Return a context length, in tokens, as an option. Raises BadRequest."""
    digits = text.strip().replace(",", "")
    if not (digits.isascii() and digits.isdigit() and 1 <= int(digits[:12]) < 2**31):
        raise BadRequest("Write a whole number of tokens, for example 8192.", "num_ctx")
    return {"num_ctx": int(digits)}


def _check_option(name: str, value: object) -> Option:
    kind = KNOWN_OPTIONS.get(name)
    if kind is None:
        known = ", ".join(sorted(KNOWN_OPTIONS))
        raise BadRequest(f"There is no option {name!r}. Known: {known}.", "options")
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not -(2**31) <= value <= 2**31:  # also refuses NaN and infinity, which JSON cannot hold
            raise BadRequest(f"Option {name} is out of range.", "options")
        return float(value)
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        if kind is int and isinstance(value, int) and not -1 <= value <= 2**31 - 1:
            raise BadRequest(f"Option {name} is out of range.", "options")
        assert isinstance(value, int | float | bool | str)
        return value
    wanted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
    raise BadRequest(f"Option {name} must be {wanted}.", "options")


def runner_options(options: Mapping[str, Option]) -> dict[str, Option]:
    """Return the options that decide how a model is loaded (fact 12)."""
    return {name: value for name, value in options.items() if name in RUNNER_OPTIONS}


@dataclass(frozen=True, slots=True)
class WarmUp:
    """One warm-up prompt. `num_predict` limits the tokens of the answer (fact 11)."""

    prompt: str
    num_predict: int = 8


DEFAULT_WARMUPS = (WarmUp("Hello", 8),)


def check_warmups(rows: object) -> tuple[WarmUp, ...]:
    """Return warm-up prompts from JSON; the default one if there are none. Raises BadRequest."""
    if not isinstance(rows, list | tuple) or len(rows) > MAX_WARMUPS:
        raise BadRequest(f"Warm-up prompts are a list of at most {MAX_WARMUPS}.", "warmups")
    checked = []
    for row in rows:
        prompt = row.get("prompt") if isinstance(row, dict) else None
        limit = row.get("num_predict", 8) if isinstance(row, dict) else None
        if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > MAX_PROMPT:
            raise BadRequest(
                f"A warm-up prompt needs a text of at most {MAX_PROMPT:,} characters.", "warmups"
            )
        if not isinstance(limit, int) or isinstance(limit, bool) or not 1 <= limit <= MAX_PREDICT:
            text = f"A warm-up prompt's token limit is between 1 and {MAX_PREDICT}."
            raise BadRequest(text, "warmups")
        checked.append(WarmUp(prompt, limit))
    return tuple(checked) or DEFAULT_WARMUPS


@dataclass(frozen=True, slots=True)
class Spec:
    """A profile as one switch uses it, kept in the switch's record."""

    profile: str
    tag: str
    keep_alive: str = "30m"
    options: dict[str, Option] = field(default_factory=dict)
    warmups: tuple[WarmUp, ...] = DEFAULT_WARMUPS
    load_timeout_s: int | None = None
    min_gpu_percent: int | None = None
    min_tokens_per_s: float | None = None
    floor_fails: bool = True

    @classmethod
    def of_profile(cls, row: Any) -> Spec:
        """Return the spec of a profile's row."""
        return cls(
            profile=row.name,
            tag=row.tag,
            keep_alive=row.keep_alive,
            options=dict(row.options),
            warmups=check_warmups(row.warmups),
            load_timeout_s=row.load_timeout_s,
            min_gpu_percent=row.min_gpu_percent,
            min_tokens_per_s=row.min_tokens_per_s,
            floor_fails=row.floor_fails,
        )

    @property
    def name(self) -> ModelName:
        """Return the name of the model."""
        return ModelName.parse(self.tag)

    def same_as(self, other: Spec | None) -> bool:
        """Return whether both load the same model in the same way, however its name is
        written."""
        return (
            other is not None and self.name == other.name and replace(self, tag=other.tag) == other
        )

    @property
    def runner_options(self) -> dict[str, Option]:
        """Return the options that decide how the model is loaded (fact 12)."""
        return runner_options(self.options)

    def loaded_as(self, other: Spec) -> Spec:
        """Return this profile with the tag, keep-alive and runner options of `other`, with which
        the model is loaded already. This profile's own would reload the model or change its
        keep-alive for everyone (facts 12, 13)."""
        sampling = {k: v for k, v in self.options.items() if k not in RUNNER_OPTIONS}
        options = sampling | other.runner_options
        return replace(self, tag=other.tag, keep_alive=other.keep_alive, options=options)

    def under(self, name: ModelName) -> Spec:
        """Return this profile with another name of the same content (fact 21)."""
        return self if name == self.name else replace(self, tag=name.full)

    @property
    def num_ctx(self) -> int | None:
        value = self.options.get("num_ctx")
        return value if isinstance(value, int) else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"warmups": [asdict(w) for w in self.warmups]}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Spec:
        warmups = tuple(WarmUp(**w) for w in row.get("warmups", ()))
        return cls(**{**row, "warmups": warmups})


MIN_LOAD_TIMEOUT_S = 120.0
SLOWEST_DISK_BYTES_PER_S = 50_000_000


def load_timeout_s(spec: Spec, size_bytes: int) -> float:
    """Return how long a load may take: it grows with the model's size, and is at least
    MIN_LOAD_TIMEOUT_S. Too long is better than too short, since a caller that gives up aborts the
    load (fact 9)."""
    if spec.load_timeout_s:
        return float(spec.load_timeout_s)
    return max(MIN_LOAD_TIMEOUT_S, 60 + size_bytes / SLOWEST_DISK_BYTES_PER_S)
