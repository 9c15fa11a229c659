"""A process records its start and its end; the next start records that it was killed."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from switcher import __version__
from switcher.audit import checkpoints, server_processes
from switcher.audit.archiving import archive
from switcher.audit.server_processes import STOPPED, ProcessRun, runs_folder
from switcher.audit.signing_keys import KeyFiles
from switcher.domain.clock import system
from switcher.models import AuditEntry
from tests.audit.conftest import DORA
from tests.until import PATIENCE_S, until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, settings: Any) -> None:
    settings.DATA_DIR = tmp_path


def start(role: str = "server") -> ProcessRun:
    """Start a run and wait until that is recorded."""
    run = ProcessRun(role)
    run.start()
    until(lambda: run._process)
    return run


def kill(run: ProcessRun) -> None:
    """Do what the operating system does: the lock is released, the file stays, nothing is
    recorded."""
    assert run._lock is not None
    os.close(run._lock)
    run._loop.stop(PATIENCE_S)


def recorded() -> list[tuple[str, str]]:
    return [(e.kind, e.facts["role"]) for e in AuditEntry.objects.order_by("seq")]


def test_start_and_stop_are_entries_with_the_version() -> None:
    run = start()
    (started,) = AuditEntry.objects.all()
    assert (started.kind, started.actor) == ("server.started", "switchboard")
    facts = started.facts
    assert facts["version"] == __version__
    assert set(facts) == {"run", "role", "version", "machine", "python", "django", "database"}
    run.stop()
    stopped = AuditEntry.objects.latest("seq")
    assert stopped.kind == "server.stopped"
    assert stopped.facts == {name: facts[name] for name in ("run", "role", "version")}
    assert list(runs_folder().iterdir()) == []


def test_the_next_start_records_once_that_a_process_was_killed() -> None:
    kill(start("gateway"))
    start().stop()
    assert recorded() == [
        ("server.started", "gateway"),
        ("server.lost", "gateway"),
        ("server.started", "server"),
        ("server.stopped", "server"),
    ]
    lost = AuditEntry.objects.get(kind="server.lost")
    assert lost.facts["run"] == AuditEntry.objects.earliest("seq").facts["run"]
    start().stop()
    assert AuditEntry.objects.filter(kind="server.lost").count() == 1


def test_a_kill_is_recorded_even_if_the_start_was_archived_meanwhile(proofs: KeyFiles) -> None:
    run = start()
    checkpoints.sign()
    assert archive(system.now() + timedelta(seconds=1), DORA) is not None
    kill(run)
    start().stop()
    lost = AuditEntry.objects.get(kind="server.lost")
    assert run._process is not None
    assert lost.facts["run"] == run._process.run


def test_running_processes_are_not_recorded_as_lost() -> None:
    first, second = start(), start("gateway")
    start("gateway").stop()
    assert "server.lost" not in dict(recorded())
    first.stop()
    second.stop()


def test_a_process_killed_after_its_recorded_stop_is_not_lost() -> None:
    run = start()
    assert run._process is not None
    server_processes._append(STOPPED, run._process, system)
    kill(run)
    start().stop()
    assert "server.lost" not in dict(recorded())


def test_a_process_killed_before_its_recorded_start_is_not_lost(monkeypatch: Any) -> None:
    def exit_now(*_: Any, **__: Any) -> None:
        raise SystemExit

    run = ProcessRun("server")
    with monkeypatch.context() as patched:
        patched.setattr(server_processes, "_append", exit_now)
        with pytest.raises(SystemExit):
            run._loop.tick()
    assert run._lock is not None
    os.close(run._lock)
    start().stop()
    assert [kind for kind, _ in recorded()] == ["server.started", "server.stopped"]


def test_a_start_that_cannot_be_recorded_is_tried_again(monkeypatch: Any) -> None:
    monkeypatch.setattr(server_processes, "RETRY_S", 0.01)
    attempts, real = [], server_processes._append

    def fail_twice(*args: Any, **facts: Any) -> None:
        attempts.append(args)
        if len(attempts) < 3:
            raise OSError("the database is away")
        real(*args, **facts)

    monkeypatch.setattr(server_processes, "_append", fail_twice)
    start().stop()
    assert [kind for kind, _ in recorded()] == ["server.started", "server.stopped"]


def test_other_files_in_the_folder_stay() -> None:
    runs_folder().mkdir()
    (runs_folder() / "notes").write_text("not ours")
    start().stop()
    assert (runs_folder() / "notes").read_text() == "not ours"
