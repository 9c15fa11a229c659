"""Sends checkpoints out of the database, to a file, a syslog or a webhook, until they arrive."""

from __future__ import annotations

import json
import logging
import os
import socket
from datetime import timedelta
from logging.handlers import SysLogHandler
from pathlib import Path
from urllib.parse import urlsplit

import requests
from django.db.models import F

from switcher.audit.paths import FILE, SYSLOG, Sink
from switcher.domain.clock import Clock, system
from switcher.models import CheckpointDelivery

log = logging.getLogger(__name__)

# Longer than any sink may take. If a process dies holding a claim, others wait this long.
CLAIM_S = 30.0
MAX_RETRY_S = 60.0
KEEP_DELIVERED = timedelta(days=30)
# Together less than the length of a claim (CLAIM_S).
CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S = 3.0, 10.0
SYSLOG_PORT = 514


# -- Deliveries


class Deliverer:
    """A loop that delivers checkpoints to one sink, oldest first."""

    def __init__(self, sink: Sink, clock: Clock = system) -> None:
        self._sink = sink
        self._clock = clock
        self._failures = 0  # in a row

    def tick(self) -> float | None:
        """Deliver everything that is due. Return the seconds until a retry, if one failed."""
        while (delivery := claim(self._sink.name, self._clock)) is not None:
            try:
                send(self._sink, delivery.checkpoint.note)
            except NotDelivered as exc:
                return self._retry_later(delivery, str(exc))
            self._failures = 0
            mark_delivered(delivery, self._clock)
        return None

    def _retry_later(self, delivery: CheckpointDelivery, why: str) -> float:
        self._failures += 1
        wait_s = min(MAX_RETRY_S, 2.0**self._failures)
        pending = CheckpointDelivery.objects.filter(pk=delivery.pk, delivered_at=None)
        next_at = self._clock.now() + timedelta(seconds=wait_s)
        pending.update(error=why[:300], next_at=next_at)
        log.warning(
            "the %s sink did not take a checkpoint: %s",
            self._sink.name,
            why,
            extra={"action": "not-delivered"},
        )
        return wait_s


def claim(sink: str, clock: Clock = system) -> CheckpointDelivery | None:
    """Claim the oldest due delivery for this sink that no other process has claimed."""
    now = clock.now()
    pending = CheckpointDelivery.objects.filter(sink=sink, delivered_at=None)
    due = pending.filter(next_at__lte=now).select_related("checkpoint").order_by("pk")
    for delivery in due[:5]:
        claimed = pending.filter(pk=delivery.pk, next_at=delivery.next_at).update(
            next_at=now + timedelta(seconds=CLAIM_S), tries=F("tries") + 1
        )
        # Lost race if not: another process has claimed it meanwhile.
        if claimed:
            return delivery
    return None


def mark_delivered(delivery: CheckpointDelivery, clock: Clock = system) -> None:
    """Record that a checkpoint has arrived."""
    rows = CheckpointDelivery.objects.filter(pk=delivery.pk)
    rows.update(delivered_at=clock.now(), error="")


def forget_delivered(clock: Clock = system) -> None:
    """Delete deliveries that arrived long ago."""
    CheckpointDelivery.objects.filter(delivered_at__lt=clock.now() - KEEP_DELIVERED).delete()


# -- Sinks


class NotDelivered(Exception):
    """The sink did not accept it. The text contains no address, as that may hold a secret."""


def send(sink: Sink, note: str) -> None:
    """Send a checkpoint to a sink. Raises NotDelivered."""
    try:
        if sink.name == FILE:
            append_line(Path(sink.target), anchor_line(note))
        elif sink.name == SYSLOG:
            _send_to_syslog(sink.target, f"checkpoint {anchor_line(note)}")
        else:
            _post(sink.target, note)
    except ValueError as exc:
        raise NotDelivered("its address cannot be used") from exc
    except OSError as exc:  # requests' errors are OSErrors too; their texts name the address
        raise NotDelivered(_describe(exc)) from exc


def _describe(exc: OSError) -> str:
    if isinstance(exc, requests.Timeout | TimeoutError):
        return "no answer in time"
    if isinstance(exc, requests.ConnectionError):
        return "cannot connect"
    return exc.strerror or type(exc).__name__


def anchor_line(note: str) -> str:
    """Return a checkpoint as one line, in a form that `read_anchors` reads."""
    return json.dumps({"note": note})


def append_line(path: Path, line: str) -> None:
    """Append a line and return once it is on disk. If a crash has cut off the last line, end that
    line first."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        size = os.fstat(fd).st_size
        is_cut_off = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
        raw = f"{chr(10) if is_cut_off else ''}{line}\n".encode()
        if os.write(fd, raw) != len(raw):
            raise OSError("written in part")
        os.fsync(fd)
    finally:
        os.close(fd)


class _Syslog(SysLogHandler):
    """Python's syslog handler, except that it raises errors and limits the time to connect."""

    ident = "switchboard: "
    append_nul = False

    def createSocket(self) -> None:  # noqa: N802 - logging's name
        if self.socktype != socket.SOCK_STREAM or isinstance(self.address, str):
            super().createSocket()
            return
        self.unixsocket = False
        self.socket = socket.create_connection(self.address, CONNECT_TIMEOUT_S)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        raise


def _send_to_syslog(target: str, text: str) -> None:
    """Send a text to the syslog at `/dev/log`, `host`, `host:514` or `tcp://host:514`."""
    address, kind = _syslog_address(target)
    if kind == socket.SOCK_STREAM:
        text += "\n"  # ends a message over TCP (RFC 6587)
    record = logging.LogRecord("switchboard", logging.INFO, "", 0, text, None, None)
    handler = _Syslog(address, SysLogHandler.LOG_AUTH, kind)
    try:
        handler.emit(record)
    finally:
        handler.close()


def _syslog_address(
    target: str,
) -> tuple[str | tuple[str, int], socket.SocketKind | None]:
    if target.startswith("/"):
        return target, None
    parts = urlsplit(target if "://" in target else f"udp://{target}")
    if parts.scheme not in {"udp", "tcp"} or not parts.hostname:
        raise ValueError("not an address")
    kind = socket.SOCK_STREAM if parts.scheme == "tcp" else socket.SOCK_DGRAM
    return (parts.hostname, parts.port or SYSLOG_PORT), kind


def _post(url: str, note: str) -> None:
    """POST `{"note": …}`. Any status from 200 to 299 counts; the response body is not read."""
    response = requests.post(
        url,
        json={"note": note},
        timeout=(CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S),
        allow_redirects=False,
        stream=True,
    )
    with response:
        if not 200 <= response.status_code < 300:
            raise NotDelivered(f"answered {response.status_code}")
