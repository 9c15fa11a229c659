"""Errors of calls to an Ollama server. The class decides what a switch does next."""

from __future__ import annotations

from typing import ClassVar

from switcher.domain.errors import SwitcherError


class OllamaError(SwitcherError):
    """The server did not do what was requested. `advice` tells people what to do about it."""

    code: ClassVar[str] = "ollama"
    advice: ClassVar[str] = ""


class Unreachable(OllamaError):
    """Nothing answers at the address."""

    code = "unreachable"
    advice = "Check that Ollama runs there and that the host's address is right."


class AddressRefused(Unreachable):
    """Switchboard does not connect to this address."""

    code = "address-refused"
    advice = "Change the host's address to that of an Ollama server."


class CredentialsUnreadable(Unreachable):
    """The host's credentials or certificates cannot be used."""

    code = "credentials-unreadable"
    advice = "Restore the key file, or enter the host's credentials again."


class TimedOut(OllamaError):
    """The answer did not arrive in time, and the call was cut."""

    code = "timed-out"
    advice = "Look at the Ollama server; restart it if it hangs."


class CallCut(OllamaError):
    """We ended the call ourselves: it was cancelled, or the host is no longer ours."""

    code = "cut"


class BadAnswer(OllamaError):
    """The answer is not from an Ollama server."""

    code = "bad-answer"
    advice = "Check that the host's address is that of an Ollama server."


class BrokeOff(BadAnswer):
    """The connection ended in the middle of the answer."""


class Refused(OllamaError):
    """The server answered with an error; `status` and `message` are its own."""

    code = "refused"

    def __init__(self, text: str, status: int, message: str) -> None:
        super().__init__(text)
        self.status = status
        self.message = message


class ModelMissing(Refused):
    """The server does not know this model (facts 5, 15)."""

    code = "no-such-model"


class ServerBusy(Refused):
    """The server's queue is full (fact 14)."""

    code = "server-busy"


class NotDone(OllamaError):
    """The answer ended with `done: false`, which is no success in spite of its status 200 (fact
    10).
    """

    code = "not-done"
