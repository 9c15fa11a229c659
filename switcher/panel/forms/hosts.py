"""The form for a host's settings."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django import forms

from switcher.domain import specs
from switcher.domain.states import Strategy
from switcher.panel.forms.validation import valid_name, validated
from switcher.queries.hosts import HostSettings

STRATEGIES = [
    (Strategy.AUTO.value, "Auto: whatever fits"),
    (Strategy.OVERLAP.value, "Overlap: load, then unload"),
    (Strategy.SWAP.value, "Swap: unload, then load"),
]
DRIFT_POLICIES = [
    ("report", "Report it"),
    ("repair", "Report and repair it"),
]
SAME_FIELDS = (
    "name", "base_url", "strategy", "keep_alive", "drift_policy", "repairs_an_hour", "simulated"
)  # fmt: skip


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
    strategy = forms.ChoiceField(choices=STRATEGIES, initial=Strategy.AUTO.value, required=False)
    keep_alive = forms.CharField(
        label="Keep-alive of models without a profile",
        max_length=20,
        initial="30m",
        required=False,
        help_text="For example 30m, 2h or forever; 0 unloads after each use.",
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
        return {name: getattr(host, name) for name in SAME_FIELDS} | {
            "vram_gb": f"{gb:.9f}".rstrip("0").rstrip(".") if gb else "",
            "pinned": list(host.pinned),
            "default": host.is_default,
        }

    def clean_base_url(self) -> str:
        return str(validated(specs.check_address, self.cleaned_data["base_url"]))

    def clean_keep_alive(self) -> str:
        return str(validated(specs.check_keep_alive, self.cleaned_data["keep_alive"] or "30m"))

    def clean_strategy(self) -> str:
        return self.cleaned_data["strategy"] or Strategy.AUTO.value

    def clean_drift_policy(self) -> str:
        return self.cleaned_data["drift_policy"] or "report"

    def values(self) -> dict[str, Any]:
        """Return the settings that `records` saves."""
        data, gb = self.cleaned_data, self.cleaned_data["vram_gb"]
        return {name: data[name] for name in SAME_FIELDS} | {
            "vram_bytes": int(gb * 10**9) if gb else None,
            "repairs_an_hour": data["repairs_an_hour"] or 3,
        }
