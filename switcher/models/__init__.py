"""Database rows and their constraints. Only `records` and `audit` write them."""

from switcher.models.accounts import FailedLogin, Origin, Preference
from switcher.models.gateway import ApiKey, GatewayName, GatewayProcess, Usage
from switcher.models.hosts import (
    Drift,
    Host,
    KnownModel,
    LearnedSize,
    Lease,
    ModelCopy,
    Pin,
    Reading,
)
from switcher.models.ledger import (
    ArchiveFile,
    AuditEntry,
    Checkpoint,
    CheckpointDelivery,
    LedgerRow,
    Review,
)
from switcher.models.profiles import ModelProfile
from switcher.models.switches import FailureSeen, SwitchEvent

__all__ = [
    "ApiKey",
    "ArchiveFile",
    "AuditEntry",
    "Checkpoint",
    "CheckpointDelivery",
    "Drift",
    "FailedLogin",
    "FailureSeen",
    "GatewayName",
    "GatewayProcess",
    "Host",
    "KnownModel",
    "LearnedSize",
    "Lease",
    "LedgerRow",
    "ModelCopy",
    "ModelProfile",
    "Origin",
    "Pin",
    "Preference",
    "Reading",
    "Review",
    "SwitchEvent",
    "Usage",
]
