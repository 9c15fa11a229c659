"""Switches as pages show them: as one line of a list, and in full."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any

from switcher.domain.model_names import ModelName
from switcher.domain.observed import Resident, find_digest
from switcher.domain.states import WORDS, State
from switcher.domain.wording import NBSP, came_from, gb, keep_alive_words
from switcher.presentation import phases
from switcher.presentation.bars import Bar, record_bars
from switcher.presentation.phases import Phase, Stretch
from switcher.queries.from_rows import from_row
from switcher.queries.switches import SwitchDetail, SwitchSummary, switch_detail


@dataclass(frozen=True)
class SwitchLine(SwitchSummary):
    """A switch as one line of a list. Model names are as people write them."""

    now: datetime

    @property
    def word(self) -> str:
        return WORDS[self.state]

    @property
    def status_style(self) -> str:
        """Return the style of its state: busy, ok, failed or none."""
        if self.is_open:
            return "busy"
        return {State.ACTIVE: "ok", State.CANCELLED: "none"}.get(self.state, "failed")

    @property
    def end_words(self) -> str:
        """Return how it ended, in a few words; while it is open, its phase."""
        if self.degraded:
            ended_well = self.state is State.ACTIVE
            return "Active, then lost" if ended_well else "Failed, not restored"
        if self.state is State.FAILED:
            return "Failed, nothing touched"
        word = "Failed" if self.state is State.ROLLED_BACK else self.word
        return f"{word}, restored" if self.restored and self.ended else word

    @property
    def from_model(self) -> str:
        return ModelName.parse(self.previous_model).short

    @property
    def to_model(self) -> str:
        return ModelName.parse(self.model).short

    @property
    def names(self) -> tuple[str, ...]:
        """Return the model names that sentences about it may contain, to be set in mono."""
        return tuple(n for n in (self.to_model, self.from_model) if n)

    @property
    def came_from(self) -> str:
        return came_from(self.source, self.ip)

    @property
    def at(self) -> datetime:
        """Return when it ended; until then, when it began."""
        return self.ended_at or self.created_at

    @property
    def day(self) -> date:
        """Return the day (UTC) on which it began."""
        return self.created_at.astimezone(UTC).date()

    @property
    def elapsed_s(self) -> float:
        return ((self.ended_at or self.now) - self.created_at) / timedelta(seconds=1)

    @property
    def old_stays(self) -> str:
        """Return the old model, if it is active after a switch that did not succeed."""
        failed = self.status_style in ("failed", "none") and not self.degraded
        return self.from_model if failed else ""


@dataclass(frozen=True, slots=True)
class Difference:
    """One line of the comparison of before and after. `mono` is set if the values are names or
    digests."""

    label: str
    before: str
    after: str
    mono: bool

    @property
    def changed(self) -> bool:
        return self.before != self.after


@dataclass(frozen=True)
class SwitchView(SwitchLine, SwitchDetail):
    """A switch on its panel and on its page."""

    @property
    def title(self) -> str:
        """Return the heading of its panel."""
        if self.is_open:
            return f"Restoring {self.host}" if self.restoring else f"Switching {self.host}"
        if self.state is State.ACTIVE:
            return f"Switched {self.host}"
        if self.state is State.CANCELLED:
            return f"Cancelled on {self.host}"
        stopped_in = phases.stopped_in(self)
        return f"Failed while {WORDS[stopped_in].lower()}" if stopped_in else "Failed"

    @property
    def left_s(self) -> float | None:
        """Return the estimated remaining seconds: None if not known, negative if overdue."""
        return None if self.expected_s is None else self.expected_s - self.elapsed_s

    @cached_property
    def rail(self) -> tuple[Phase, ...]:
        return phases.rail(self)

    @cached_property
    def timeline(self) -> tuple[Stretch, ...]:
        return phases.timeline(self, self.now)

    @property
    def without_model_s(self) -> float | None:
        return phases.without_model_s(self)

    @property
    def before_bar(self) -> Bar | None:
        return self._bars[0]

    @property
    def after_bar(self) -> Bar | None:
        return self._bars[1]

    @cached_property
    def _bars(self) -> tuple[Bar | None, Bar | None]:
        if self.before is None:
            return None, None
        total = (self.plan or {}).get("vram_bytes") or self.vram_bytes
        new = self.digest if self.state is State.ACTIVE else self.previous_digest
        return record_bars(self.before, self.after, (self.previous_digest, new), total)

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Return what differs between before and after, as read from the host; empty while there is
        no reading from after the switch."""
        if self.before is None or self.after is None:
            return ()
        old = (self.from_model, self.previous_digest, self.previous_keep_alive)
        new = (self.to_model, self.digest, self.keep_alive)
        before = _side(*old, self.before)
        after = _side(*(new if self.state is State.ACTIVE else old), self.after)
        return tuple(
            Difference(label, a, b, label in MONO)
            for label, a, b in zip(LABELS, before, after, strict=True)
        )

    @property
    def record(self) -> dict[str, Any]:
        """Return everything that is recorded, unprocessed."""
        record = asdict(self)
        del record["now"]
        for name, rows in (("before", self.before), ("after", self.after)):
            record[name] = rows and [resident.to_json() for resident in rows]
        return record


LABELS = (
    *("Active model", "Digest", "Also resident"),
    *("On GPU", "Context", "Keep-alive", "Memory"),
)
MONO = LABELS[:3]


def _side(
    model: str, digest: str, keep_alive: str, resident: tuple[Resident, ...]
) -> tuple[str, ...]:
    """Return the values of LABELS for one side of the comparison."""
    active = find_digest(resident, digest)
    others = ", ".join(r.name.short for r in resident if r is not active)
    used = sum(r.bytes for r in resident)
    return (
        (model if active else f"{model} (not loaded)") if model else "none",
        digest[:12] or "–",
        others or "none",
        f"{active.gpu_percent}{NBSP}%" if active else "–",
        f"{active.context_length:,}" if active and active.context_length else "–",
        keep_alive_words(keep_alive) if keep_alive else "–",
        f"{gb(used)}{NBSP}GB",
    )


def line_of(summary: SwitchSummary, now: datetime) -> SwitchLine:
    """Present a switch as one line of a list."""
    return from_row(SwitchLine, summary, now=now)


def view_of(detail: SwitchDetail, now: datetime) -> SwitchView:
    """Present a switch in full."""
    return from_row(SwitchView, detail, now=now)


def switch_view(switch_id: int, now: datetime) -> SwitchView:
    """Read and present a switch. Raises NotFound."""
    return view_of(switch_detail(switch_id), now)
