"""The form for a host's credentials and certificates. Secrets are written, and never shown."""

from __future__ import annotations

from typing import Any

from django import forms

from switcher.domain.servers import Credentials, parse_headers
from switcher.panel.forms.config import validated

_SECRET = {"autocomplete": "off", "spellcheck": "false"}


class _SecretText(forms.Textarea):
    """A text area that never shows what was entered, as a password field does."""

    def format_value(self, value: Any) -> str:
        return ""


class HostAccessForm(forms.Form):
    """What a proxy in front of a host asks for. An empty secret stays as it is."""

    bearer_token = forms.CharField(
        required=False,
        max_length=4000,
        strip=True,
        widget=forms.PasswordInput({**_SECRET, "autocomplete": "new-password"}),
        help_text="Sent as Authorization: Bearer. It takes the place of a user and a password.",
    )
    user = forms.CharField(required=False, max_length=200, widget=forms.TextInput(_SECRET))
    password = forms.CharField(
        required=False,
        max_length=1000,
        strip=False,
        widget=forms.PasswordInput({**_SECRET, "autocomplete": "new-password"}),
        help_text="Sent by basic authentication.",
    )
    headers = forms.CharField(
        label="Own headers",
        required=False,
        max_length=20_000,
        widget=_SecretText({**_SECRET, "rows": 3, "placeholder": "X-Api-Key: …"}),
        help_text="One a line. They take the place of all own headers that are stored.",
    )
    client_certificate = forms.CharField(
        required=False,
        max_length=100_000,
        widget=_SecretText({**_SECRET, "rows": 3}),
        help_text="PEM, with the certificate and its key without a password.",
    )
    forget = forms.BooleanField(label="Forget all stored credentials first", required=False)
    ca_certificate = forms.CharField(
        label="Own CA",
        required=False,
        max_length=200_000,
        widget=forms.Textarea({"rows": 3, "spellcheck": "false"}),
        help_text="PEM. Only what it has signed is trusted. Without it: the CAs of the system, or "
        "of REQUESTS_CA_BUNDLE or SSL_CERT_FILE.",
    )
    skip_verification = forms.BooleanField(
        label="Do not verify the server's certificate: anyone between can read and change it",
        required=False,
    )

    def clean_headers(self) -> Any:
        return validated(parse_headers, self.cleaned_data["headers"])

    def credentials(self) -> Credentials:
        """Return what was entered."""
        names = ("bearer_token", "user", "password", "headers", "client_certificate")
        return Credentials(**{name: self.cleaned_data[name] for name in names})
