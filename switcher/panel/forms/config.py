"""The forms for hosts and profiles, and the formset for the warm-up prompts of a profile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from django import forms
from django.forms.renderers import get_default_renderer
from django.http import QueryDict

from switcher.domain import specs
from switcher.domain.addresses import check_address
from switcher.domain.errors import BadRequest
from switcher.domain.memory import MAX_SLOTS
from switcher.domain.states import Strategy
from switcher.domain.wake_on_lan import check_mac
from switcher.queries.hosts import HostSettings
from switcher.queries.profiles import ProfileRow

STRATEGIES = [
    (Strategy.AUTO.value, "Auto: whatever fits"),
    (Strategy.OVERLAP.value, "Overlap: load, then unload"),
    (Strategy.SWAP.value, "Swap: unload, then load"),
]
DRIFT_POLICIES = [
    ("report", "Report it"),
    ("repair", "Report and repair it"),
]
# Fields that forms and records name alike.
HOST_FIELDS = (
    "name", "base_url", "strategy", "keep_alive", "drift_policy", "repairs_an_hour", "simulated",
    "allows_cloud", "max_loaded", "parallel_requests", "mac_address",
)  # fmt: skip
PROFILE_FIELDS = (
    "name", "tag", "keep_alive", "load_timeout_s", "min_gpu_percent", "min_tokens_per_s",
    "floor_fails", "notes",
)  # fmt: skip
MAX_WARMUPS = 8
DEFAULT_TOKENS = 8


def validated(check: Callable[[Any], Any], value: Any) -> Any:
    """Return the value that a check of `specs` returns. Its BadRequest becomes a form error."""
    try:
        return check(value)
    except BadRequest as exc:
        raise forms.ValidationError(exc.text) from exc


def valid_name(name: str) -> None:
    """Validate the name of a host or a profile."""
    validated(specs.check_name, name)


class HostForm(forms.Form):
    """A host's settings."""

    name = forms.CharField(
        max_length=40,
        validators=[valid_name],
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
        label="VRAM that Ollama may use, in GB",
        required=False,
        min_value=Decimal("0.1"),
        max_value=Decimal(100_000),
        help_text="Ollama does not report the total. Without it, plans show sizes but cannot say "
        "whether a model fits.",
        widget=forms.TextInput({"placeholder": "44", "inputmode": "decimal"}),
    )
    max_loaded = forms.IntegerField(
        label="Models that Ollama keeps loaded at once",
        required=False,
        min_value=1,
        max_value=100,
        help_text="OLLAMA_MAX_LOADED_MODELS of the server, which Ollama does not report. Without "
        "it, Switchboard learns it from evictions; Ollama's default is 3 for each GPU.",
        widget=forms.TextInput({"placeholder": "3", "inputmode": "numeric"}),
    )
    parallel_requests = forms.IntegerField(
        label="Parallel requests to a model",
        required=False,
        min_value=1,
        max_value=MAX_SLOTS,
        help_text="OLLAMA_NUM_PARALLEL of the server, which Ollama does not report. It keeps a "
        "context for each, so plans count that memory as often; Ollama's default is 1.",
        widget=forms.TextInput({"placeholder": "1", "inputmode": "numeric"}),
    )
    mac_address = forms.CharField(
        label="MAC address, if the machine sleeps",
        required=False,
        max_length=40,
        help_text="If the host does not answer, a switch wakes it with a Wake-on-LAN packet. The "
        "machine has to be on the same network as this server.",
        widget=forms.TextInput({"placeholder": "00:1a:2b:3c:4d:5e", "autocomplete": "off"}),
    )
    strategy = forms.ChoiceField(choices=STRATEGIES, initial=Strategy.AUTO.value, required=False)
    keep_alive = forms.CharField(
        label="Keep-alive of models without a profile",
        max_length=20,
        initial="30m",
        required=False,
        help_text="For example 30m, 24h or forever. 0 unloads after each use, so such a model "
        "cannot be active or pinned.",
    )
    pinned = forms.MultipleChoiceField(
        label="Pinned: kept loaded next to the active model",
        required=False,
        widget=forms.CheckboxSelectMultiple,
    )
    drift_policy = forms.ChoiceField(
        label="When the host drifts from its settings",
        choices=DRIFT_POLICIES,
        initial="report",
        required=False,
        help_text="A repair switches back to the active model, loads pinned models, and renews "
        "their keep-alive.",
    )
    repairs_an_hour = forms.IntegerField(
        label="Maximum repairs per hour",
        initial=3,
        min_value=1,
        max_value=60,
        required=False,
        help_text="After that, drift is only reported until an hour has passed or somebody "
        "switches.",
    )
    allows_cloud = forms.BooleanField(
        label="Allow cloud models: prompts may leave this machine", required=False
    )
    simulated = forms.BooleanField(label="This is a simulated host", required=False)
    default = forms.BooleanField(label="Use this host when a request names none", required=False)

    def __init__(self, *args: Any, profiles: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        pinned = self.fields["pinned"]
        assert isinstance(pinned, forms.MultipleChoiceField)
        pinned.choices = [(name, name) for name in profiles]

    @classmethod
    def initial_of(cls, host: HostSettings) -> dict[str, Any]:
        """Return the initial values for a form that changes this host."""
        gb = Decimal(host.vram_bytes) / 10**9 if host.vram_bytes else None
        return {name: getattr(host, name) for name in HOST_FIELDS} | {
            "vram_gb": f"{gb:.9f}".rstrip("0").rstrip(".") if gb else "",
            "pinned": list(host.pinned),
            "default": host.is_default,
        }

    def clean_base_url(self) -> str:
        return str(validated(check_address, self.cleaned_data["base_url"]))

    def clean_mac_address(self) -> str:
        return str(validated(check_mac, self.cleaned_data["mac_address"]))

    def clean_keep_alive(self) -> str:
        return str(validated(specs.check_keep_alive, self.cleaned_data["keep_alive"] or "30m"))

    def clean_strategy(self) -> str:
        return self.cleaned_data["strategy"] or Strategy.AUTO.value

    def clean_drift_policy(self) -> str:
        return self.cleaned_data["drift_policy"] or "report"

    def values(self) -> dict[str, Any]:
        """Return the settings that `records` saves."""
        data, gb = self.cleaned_data, self.cleaned_data["vram_gb"]
        return {name: data[name] for name in HOST_FIELDS} | {
            "vram_bytes": int(gb * 10**9) if gb else None,
            "repairs_an_hour": data["repairs_an_hour"] or 3,
        }


class ProfileForm(forms.Form):
    """A profile without its warm-up prompts."""

    name = forms.CharField(
        max_length=60,
        validators=[valid_name],
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
        help_text="For example 30m, 24h or forever. 0 unloads after each use, so such a model "
        "cannot be active or pinned.",
    )
    options = forms.CharField(
        required=False,
        initial="{}",
        help_text=(
            'JSON, for example {"num_ctx": 8192}. A changed runner option (num_ctx, num_gpu and so '
            "on) reloads the model. OpenAI's API has no runner options. So while a profile that "
            "sets one is active, the gateway translates OpenAI requests to Ollama's own API, drops "
            "the parameters that it lacks (n, logprobs and so on), and refuses /v1/responses."
        ),
        widget=forms.Textarea({"rows": 3, "spellcheck": "false", "class": "mono"}),
    )
    load_timeout_s = forms.IntegerField(
        label="Load timeout, in seconds",
        required=False,
        min_value=10,
        max_value=86_400,
        help_text="If empty, it grows with the model's size, from 120 s.",
    )
    min_gpu_percent = forms.IntegerField(
        label="Minimum share on the GPU, in %",
        required=False,
        min_value=1,
        max_value=100,
        help_text="If empty, any share is accepted.",
    )
    min_tokens_per_s = forms.FloatField(
        label="Minimum tokens/s in the warm-up",
        required=False,
        min_value=0.1,
        max_value=100_000,
        help_text="If empty, any speed is accepted.",
    )
    floor_fails = forms.BooleanField(
        label="Below these minimums the switch fails and the old model comes back",
        required=False,
        initial=True,
        help_text="Otherwise the switch succeeds with a warning.",
    )
    notes = forms.CharField(required=False, max_length=4000, widget=forms.Textarea({"rows": 3}))

    @classmethod
    def initial_of(cls, profile: ProfileRow) -> dict[str, Any]:
        """Return the initial values for a form that changes this profile."""
        values = {name: getattr(profile, name) for name in PROFILE_FIELDS}
        return values | {"options": json.dumps(profile.options)}

    def clean_tag(self) -> str:
        return str(validated(specs.check_tag, self.cleaned_data["tag"]))

    def clean_keep_alive(self) -> str:
        return str(validated(specs.check_keep_alive, self.cleaned_data["keep_alive"]))

    def clean_options(self) -> dict[str, specs.Option]:
        try:
            value = json.loads(self.cleaned_data["options"] or "{}")
        except ValueError:
            value = None  # `check_options` says what is expected
        options: dict[str, specs.Option] = validated(specs.check_options, value)
        return options


class WarmupForm(forms.Form):
    """One warm-up prompt. An empty prompt is left out."""

    prompt = forms.CharField(
        required=False,
        widget=forms.Textarea({"rows": 2, "aria-describedby": "warmups-help"}),
    )
    num_predict = forms.IntegerField(
        initial=DEFAULT_TOKENS, widget=forms.TextInput({"inputmode": "numeric"})
    )

    def clean(self) -> dict[str, Any]:
        if self.is_written and "num_predict" in self.cleaned_data:
            validated(specs.check_warmups, [self.cleaned_data])
        return self.cleaned_data

    @property
    def is_written(self) -> bool:
        return bool(self.cleaned_data.get("prompt"))


class WarmupFormSet(forms.BaseFormSet):  # type: ignore[type-arg]  # generic only for the checker
    """The warm-up prompts of a profile."""

    form = WarmupForm
    renderer = get_default_renderer()
    extra = min_num = 0
    max_num = absolute_max = MAX_WARMUPS
    can_order = can_delete = can_delete_extra = False
    validate_max = True
    validate_min = False

    @property
    def can_add(self) -> bool:
        return len(self.forms) < MAX_WARMUPS

    @property
    def error_text(self) -> str:
        """Return the first error, or nothing."""
        errors = [
            *self.non_form_errors(),
            *(text for form in self.forms for texts in form.errors.values() for text in texts),
        ]
        return str(errors[0]) if errors else ""

    def rows(self) -> list[dict[str, Any]]:
        """Return the prompts of the valid formset."""
        return [form.cleaned_data for form in self.forms if form.is_written]

    def with_another(self) -> WarmupFormSet:
        """Return the same prompts, unchecked, followed by an empty one with the focus."""
        fields = ("prompt", "num_predict")
        written = [{name: form[name].data for name in fields} for form in self.forms]
        formset = _unbound([*written, {}][:MAX_WARMUPS])
        formset.forms[-1].fields["prompt"].widget.attrs["autofocus"] = True
        return formset


def warmups_of(warmups: Iterable[specs.WarmUp]) -> WarmupFormSet:
    """Return the formset that shows these prompts."""
    return _unbound([{"prompt": w.prompt, "num_predict": w.num_predict} for w in warmups])


def sent_warmups(data: QueryDict) -> WarmupFormSet:
    """Return the formset as submitted. A client may omit the prompts."""
    if "warmups-TOTAL_FORMS" not in data:
        return WarmupFormSet(
            {"warmups-TOTAL_FORMS": 0, "warmups-INITIAL_FORMS": 0}, prefix="warmups"
        )
    return WarmupFormSet(data, prefix="warmups")


def _unbound(rows: list[dict[str, Any]]) -> WarmupFormSet:
    return WarmupFormSet(initial=rows or [{}], prefix="warmups")
