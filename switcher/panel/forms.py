"""Forms: they read what people write; what is valid is decided by `specs`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Any

from django import forms
from django.core.validators import RegexValidator

from switcher.domain import specs
from switcher.domain.errors import BadRequest
from switcher.domain.states import Strategy
from switcher.presentation.board import Board
from switcher.queries.hosts import HostSettings
from switcher.queries.profiles import ProfileRow
from switcher.queries.switches import OUTCOMES, Filters
from switcher.switching.service import SwitchRequest

NAME = RegexValidator(
    r"^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$",
    "Use lower-case letters, digits and hyphens, for example north-1.",
)
STRATEGIES = [
    (Strategy.AUTO.value, "Auto: what fits"),
    (Strategy.OVERLAP.value, "Overlap: load, then unload"),
    (Strategy.SWAP.value, "Swap: unload, then load"),
]
POLICIES = [
    ("report", "Report it"),
    ("repair", "Report and repair it"),
]
MAX_WARMUPS = 8


def checked(check: Callable[[Any], Any], value: Any) -> Any:
    """Have `specs` check a value; what it refuses becomes the field's error."""
    try:
        return check(value)
    except BadRequest as exc:
        raise forms.ValidationError(exc.text) from exc


@dataclass(frozen=True, slots=True)
class Chosen:
    """What the switch form shows as chosen. `want` is a profile's name, or `=` and a model."""

    host: str
    want: str
    reason: str
    strategy: str
    keep_alive: str

    def to_wish(self) -> SwitchRequest:
        model = self.want.removeprefix("=") if self.want.startswith("=") else ""
        return SwitchRequest(
            model=model,
            profile="" if model else self.want,
            host=self.host,
            reason=self.reason,
            strategy=self.strategy,
            keep_alive=self.keep_alive,
        )


class WishForm:
    """The switch form. Nothing is checked here: the service does, the same for every entrance."""

    def __init__(self, data: Any) -> None:
        self._data = data or {}

    def chosen(self, board: Board | None = None) -> Chosen:
        """What was sent, and for what was not, what is most probably meant."""
        host, want = self._text("host"), self._text("profile")
        if board is not None:
            host = host or self._default_host(board)
            want = want or self._default_want(board, host)
        return Chosen(
            host, want, self._text("reason"), self._text("strategy"), self._text("keep_alive")
        )

    def wish(self) -> SwitchRequest:
        return self.chosen().to_wish()

    def _text(self, name: str) -> str:
        return str(self._data.get(name, "")).strip()

    @staticmethod
    def _default_host(board: Board) -> str:
        return next((h.name for h in board.hosts if h.is_default), board.hosts[0].name)

    @staticmethod
    def _default_want(board: Board, host: str) -> str:
        """The first model that is on its disk and not loaded: a switch to it changes something."""
        row = next((h for h in board.hosts if h.name == host), None)
        choices = (*board.profiles, *board.models)
        other = [c for c in choices if row and c.model != row.model and c.model in row.on_disk]
        return next((c.value for c in (*other, *choices)), "")


class HostForm(forms.Form):
    """A host's settings."""

    name = forms.CharField(
        max_length=40,
        validators=[NAME],
        help_text="Lower-case letters, digits, hyphens.",
        widget=forms.TextInput({"placeholder": "north-1", "autocomplete": "off"}),
    )
    base_url = forms.CharField(
        label="Address",
        max_length=300,
        help_text="As seen from this Switchboard server.",
        widget=forms.URLInput({"placeholder": "http://10.0.0.21:11434", "autocomplete": "off"}),
    )
    vram_gb = forms.DecimalField(
        label="VRAM you allow Ollama to use, in GB",
        required=False,
        min_value=Decimal("0.1"),
        max_value=Decimal(100_000),
        help_text="Ollama does not report the total. Without it, plans show sizes but cannot say "
        "whether a model fits.",
        widget=forms.TextInput({"placeholder": "44", "inputmode": "decimal"}),
    )
    strategy = forms.ChoiceField(choices=STRATEGIES, initial=Strategy.AUTO.value, required=False)
    keep_alive = forms.CharField(
        label="Keep-alive of models without a profile",
        max_length=20,
        initial="30m",
        required=False,
        help_text="For example 30m, 2h or forever; 0 unloads after each use.",
    )
    pinned = forms.MultipleChoiceField(
        label="Pinned: kept loaded beside the active model",
        required=False,
        widget=forms.CheckboxSelectMultiple,
    )
    drift_policy = forms.ChoiceField(
        label="When the host drifts from what is wanted",
        choices=POLICIES,
        initial="report",
        required=False,
        help_text="Repair switches back to the active model, loads pinned ones, and keeps their "
        "keep-alive from running out.",
    )
    repairs_an_hour = forms.IntegerField(
        label="Repairs an hour, at most",
        initial=3,
        min_value=1,
        max_value=60,
        required=False,
        help_text="Then it only reports, until an hour has passed or somebody switches.",
    )
    simulated = forms.BooleanField(label="This is a simulated host", required=False)
    default = forms.BooleanField(label="Meant where no host is named", required=False)

    def __init__(self, *args: Any, profiles: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        pinned = self.fields["pinned"]
        assert isinstance(pinned, forms.MultipleChoiceField)
        pinned.choices = [(name, name) for name in profiles]

    @classmethod
    def initial_of(cls, host: HostSettings) -> dict[str, Any]:
        gb = Decimal(host.vram_bytes) / 10**9 if host.vram_bytes else None
        return {
            "name": host.name,
            "base_url": host.base_url,
            "vram_gb": f"{gb:.9f}".rstrip("0").rstrip(".") if gb else "",
            "strategy": host.strategy,
            "keep_alive": host.keep_alive,
            "pinned": list(host.pinned),
            "drift_policy": host.drift_policy,
            "repairs_an_hour": host.repairs_an_hour,
            "simulated": host.simulated,
            "default": host.is_default,
        }

    def clean_base_url(self) -> str:
        return str(checked(specs.check_address, self.cleaned_data["base_url"]))

    def clean_keep_alive(self) -> str:
        return str(checked(specs.check_keep_alive, self.cleaned_data["keep_alive"] or "30m"))

    def clean_strategy(self) -> str:
        return self.cleaned_data["strategy"] or Strategy.AUTO.value

    def clean_drift_policy(self) -> str:
        return self.cleaned_data["drift_policy"] or "report"

    def values(self) -> dict[str, Any]:
        """What `records` saves."""
        data = self.cleaned_data
        gb = data["vram_gb"]
        return {
            "name": data["name"],
            "base_url": data["base_url"],
            "vram_bytes": int(gb * 10**9) if gb else None,
            "simulated": data["simulated"],
            "strategy": data["strategy"],
            "keep_alive": data["keep_alive"],
            "drift_policy": data["drift_policy"],
            "repairs_an_hour": data["repairs_an_hour"] or 3,
        }


class ProfileForm(forms.Form):
    """A profile. Its warm-up prompts are rows beside the form's fields: see `Warmups`."""

    name = forms.CharField(
        max_length=60,
        validators=[NAME],
        help_text="Lower-case letters, digits, hyphens, for example qwen-14b-chat.",
        widget=forms.TextInput({"autocomplete": "off"}),
    )
    tag = forms.CharField(
        label="Model",
        max_length=200,
        help_text="As Ollama lists it, for example qwen2.5:14b.",
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
    )
    keep_alive = forms.CharField(
        label="Keep-alive",
        max_length=20,
        initial="30m",
        help_text="For example 30m, 2h or forever; 0 unloads after each use.",
    )
    options = forms.CharField(
        required=False,
        initial="{}",
        help_text=(
            'JSON, for example {"num_ctx": 8192}. Options of the runner (num_ctx, num_gpu and the '
            "like) reload the model, and OpenAI's addresses cannot carry them: while such a "
            "profile answers, the gateway refuses /v1/responses, asks Ollama's own addresses "
            "instead of the others, and drops what those do not know (n, logprobs and the like)."
        ),
        widget=forms.Textarea({"rows": 3, "spellcheck": "false", "class": "mono"}),
    )
    load_timeout_s = forms.IntegerField(
        label="Load timeout, in seconds",
        required=False,
        min_value=10,
        max_value=86_400,
        help_text="Empty: it grows with the model's size, 120 s at least.",
    )
    min_gpu_percent = forms.IntegerField(
        label="At least on the GPU, in %",
        required=False,
        min_value=1,
        max_value=100,
        help_text="Empty: any share will do.",
    )
    min_tokens_per_s = forms.FloatField(
        label="At least tokens/s in the warm-up",
        required=False,
        min_value=0.1,
        max_value=100_000,
        help_text="Empty: any speed will do.",
    )
    floor_fails = forms.BooleanField(
        label="Below these floors the switch fails and the old model comes back",
        required=False,
        initial=True,
        help_text="Else it is a warning.",
    )
    notes = forms.CharField(required=False, max_length=4000, widget=forms.Textarea({"rows": 3}))

    @classmethod
    def initial_of(cls, row: ProfileRow) -> dict[str, Any]:
        names = (
            "name", "tag", "keep_alive", "load_timeout_s", "min_gpu_percent",
            "min_tokens_per_s", "floor_fails", "notes",
        )  # fmt: skip
        return {n: getattr(row, n) for n in names} | {"options": json.dumps(row.options)}

    def clean_tag(self) -> str:
        return str(checked(specs.check_tag, self.cleaned_data["tag"]))

    def clean_keep_alive(self) -> str:
        return str(checked(specs.check_keep_alive, self.cleaned_data["keep_alive"]))

    def clean_options(self) -> dict[str, specs.Option]:
        try:
            value = json.loads(self.cleaned_data["options"] or "{}")
        except ValueError:
            value = None  # `specs` says what is wanted
        options: dict[str, specs.Option] = checked(specs.check_options, value)
        return options


@dataclass(frozen=True, slots=True)
class WarmupRow:
    """One prompt as it was written. `number` counts from 1."""

    number: int
    prompt: str
    tokens: str


class Warmups:
    """The rows of warm-up prompts, from fields that repeat."""

    def __init__(self, rows: list[tuple[str, str]]) -> None:
        self.rows = [WarmupRow(n, *r) for n, r in enumerate(rows or [("", "8")], start=1)]
        self.error = ""

    @classmethod
    def of(cls, warmups: tuple[specs.WarmUp, ...]) -> Warmups:
        return cls([(w.prompt, str(w.num_predict)) for w in warmups])

    @classmethod
    def sent(cls, data: Any) -> Warmups:
        prompts, tokens = data.getlist("warmup_prompt"), data.getlist("warmup_tokens")
        tokens += ["8"] * (len(prompts) - len(tokens))
        return cls(list(zip(prompts, tokens, strict=False))[:MAX_WARMUPS])

    def add(self) -> None:
        """One more empty row, as far as they go."""
        if len(self.rows) < MAX_WARMUPS:
            self.rows.append(WarmupRow(len(self.rows) + 1, "", "8"))

    @property
    def can_add(self) -> bool:
        return len(self.rows) < MAX_WARMUPS

    def values(self) -> list[dict[str, Any]] | None:
        """The prompts that were written; None and `error` where one is not valid."""
        written = [
            {"prompt": r.prompt, "num_predict": _number(r.tokens)}
            for r in self.rows
            if r.prompt.strip()
        ]
        try:
            specs.check_warmups(written)
        except BadRequest as exc:
            self.error = exc.text
            return None
        return written


def _number(text: str) -> int | str:
    return int(text) if text.strip().isascii() and text.strip().isdecimal() else text


class FilterForm(forms.Form):
    """What the list of switches is narrowed to; it lives in the address."""

    host = forms.CharField(required=False)
    model = forms.CharField(required=False)
    who = forms.CharField(required=False)
    outcome = forms.ChoiceField(required=False, choices=[("", "Any"), *((o, o) for o in OUTCOMES)])
    since = forms.DateField(required=False)
    until = forms.DateField(required=False)
    q = forms.CharField(required=False)

    def filters(self) -> Filters:
        """What could be read; the rest counts as any."""
        self.is_valid()
        data = getattr(self, "cleaned_data", {})
        return Filters(
            host=data.get("host", ""),
            model=data.get("model", ""),
            who=data.get("who", ""),
            outcome=data.get("outcome", ""),
            since=_moment(data.get("since"), time.min),
            until=_moment(data.get("until"), time.max),
            text=data.get("q", ""),
        )


def _moment(day: Any, at: time) -> datetime | None:
    return datetime.combine(day, at, tzinfo=UTC) if day else None
