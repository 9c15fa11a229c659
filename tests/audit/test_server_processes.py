"""A process tells its start and its end; of one that was killed, the next start tells."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from switcher import __version__
from switcher.audit import checkpoints, process_entries
from switcher.audit.archiving import archive
from switcher.audit.server_runs import Run, folder
from switcher.audit.signing_keys import KeyFiles
from switcher.domain.clock import system
from switcher.models import AuditEntry
from tests.audit.conftest import DORA

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, settings: Any) -> None:
    settings.DATA_DIR = tmp_path


def begin(role: str = "server") -> Run:
    """A run that has told its start."""
    run = Run(role)
    run.start()
    run._thread.join(20)
    return run


def kill(run: Run) -> None:
    """As the system does it: the lock goes, the file stays, nothing is written."""
    assert run._lock is not None
    os.close(run._lock)


def told() -> list[tuple[str, str]]:
    return [(e.kind, e.facts["role"]) for e in AuditEntry.objects.order_by("seq")]


def test_start_and_stop_are_entries_with_the_version() -> None:
    run = begin()
    (started,) = AuditEntry.objects.all()
    assert (started.kind, started.actor) == ("server.started", "switchboard")
    facts = started.facts
    assert facts["version"] == __version__
    assert set(facts) == {"run", "role", "version", "machine", "python", "django", "database"}
    run.stop()
    stopped = AuditEntry.objects.latest("seq")
    assert stopped.kind == "server.stopped"
    assert stopped.facts == {name: facts[name] for name in ("run", "role", "version")}
    assert list(folder().iterdir()) == []


def test_the_start_after_a_kill_says_that_the_last_run_had_no_stop() -> None:
    run = begin("gateway")
    kill(run)
    begin().stop()
    assert told() == [
        ("server.started", "gateway"),
        ("server.lost", "gateway"),
        ("server.started", "server"),
        ("server.stopped", "server"),
    ]
    lost = AuditEntry.objects.get(kind="server.lost")
    assert lost.facts["run"] == AuditEntry.objects.earliest("seq").facts["run"]
    begin().stop()
    assert AuditEntry.objects.filter(kind="server.lost").count() == 1, "once is enough"


def test_a_kill_is_told_where_the_start_lies_in_a_file_by_then(proofs: KeyFiles) -> None:
    run = begin()
    checkpoints.sign()
    assert archive(system.now() + timedelta(seconds=1), DORA) is not None
    kill(run)
    begin().stop()
    lost = AuditEntry.objects.get(kind="server.lost")
    assert run._process is not None
    assert lost.facts["run"] == run._process.run


def test_processes_that_run_are_not_taken_for_dead() -> None:
    first, second = begin(), begin("gateway")
    begin("gateway").stop()
    assert "server.lost" not in dict(told())
    first.stop()
    second.stop()


def test_one_that_was_killed_between_its_stop_and_its_end_had_stopped() -> None:
    run = begin()
    assert run._process is not None
    process_entries.stopped(run._process)
    kill(run)
    begin().stop()
    assert "server.lost" not in dict(told())


def test_one_that_was_killed_before_its_start_was_told_is_not_told_of(monkeypatch: Any) -> None:
    def gone(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(process_entries, "started", gone)
        run = Run("server")
        with pytest.raises(SystemExit):
            run._begin()
    kill(run)
    begin().stop()
    assert [kind for kind, _ in told()] == ["server.started", "server.stopped"]


def test_a_start_that_cannot_be_written_is_tried_again(monkeypatch: Any) -> None:
    monkeypatch.setattr("switcher.audit.server_runs.AGAIN_S", 0.01)
    tries, started = [], process_entries.started

    def at_last(*args: Any) -> None:
        tries.append(args)
        if len(tries) < 3:
            raise OSError("the database is away")
        started(*args)

    monkeypatch.setattr(process_entries, "started", at_last)
    begin().stop()
    assert [kind for kind, _ in told()] == ["server.started", "server.stopped"]


def test_files_of_others_in_the_folder_are_left_alone() -> None:
    folder().mkdir()
    (folder() / "notes").write_text("not ours")
    begin().stop()
    assert (folder() / "notes").read_text() == "not ours"
