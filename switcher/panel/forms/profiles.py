"""The form for a profile, and the formset for its warm-up prompts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from django import forms
from django.forms.renderers import get_default_renderer
from django.http import QueryDict

from switcher.domain import specs
from switcher.panel.forms.validation import valid_name, validated
from switcher.queries.profiles import ProfileRow

MAX_WARMUPS = 8
DEFAULT_TOKENS = 8
SAME_FIELDS = (
    "name", "tag", "keep_alive", "load_timeout_s", "min_gpu_percent", "min_tokens_per_s",
    "floor_fails", "notes",
)  # fmt: skip


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
        help_text="For example 30m, 2h or forever; 0 unloads after each use.",
    )
    options = forms.CharField(
        required=False,
        initial="{}",
        help_text=(
            'JSON, for example {"num_ctx": 8192}. Runner options (num_ctx, num_gpu and so on) '
            "reload the model, and the OpenAI endpoints cannot carry them: while such a profile "
            "is active, the gateway refuses /v1/responses, translates the other endpoints to "
            "Ollama's own, and drops parameters that those do not have (n, logprobs and so on)."
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
        values = {name: getattr(profile, name) for name in SAME_FIELDS}
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
