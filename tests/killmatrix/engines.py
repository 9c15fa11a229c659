"""The two databases under test: how each is made, read, and held in the middle of an activation."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.server.process import ROOT, environment
from tests.until import PATIENCE_S

PEOPLE = """
import django; django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.auth.models import User
from switcher.models import ModelProfile
from switcher.records import config
from switcher.audit.ledger import SERVER
User.objects.create_superuser("admin", password={password!r})
for name in ("mid-a", "mid-b"):
    config.save_profile(ModelProfile(name=name, tag=name), SERVER)
"""
MISSING = "PostgreSQL is not installed. On Debian: apt install postgresql"


class Missing(Exception):
    """This engine is not installed here; the text says what to install."""


class Database:
    """One cell's database: what a server needs to use it, and a way to read its rows."""

    def __init__(self, data: Path, env: dict[str, str]) -> None:
        self.data = data
        self.env = {**environment(data), "SWITCHER_OPEN_GATEWAY": "no-proxy", **env}

    def run(self, code: str) -> None:
        """Run a piece of Python over this database to its end."""
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=self.env,
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a query gives now, as others see it: committed."""
        raise NotImplementedError

    def row(self, sql: str) -> tuple[Any, ...]:
        (row,) = self.rows(sql)
        return row

    def lease_ends_in(self) -> float:
        """Return the seconds until the lease of the killed server's worker runs out."""
        raise NotImplementedError

    @contextmanager
    def activation_held(self) -> Iterator[None]:
        """While the block lasts, the transaction that activates does not get to its end."""
        raise NotImplementedError
        yield

    def inside_activation(self) -> bool:
        """Whether a server has that transaction under way now."""
        raise NotImplementedError

    def close(self) -> None:
        pass


class SQLiteDatabase(Database):
    def __init__(self, data: Path) -> None:
        super().__init__(data, {})
        self._path = data / "switchboard.sqlite3"
        self._connection = sqlite3.connect(
            self._path, isolation_level=None, timeout=PATIENCE_S, check_same_thread=False
        )

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql).fetchall()

    def lease_ends_in(self) -> float:
        (until,) = self.row("SELECT until FROM switcher_lease WHERE owner <> ''")
        # SQLite's leases end by the monotonic clock (switcher.models.shared_time).
        ends_at = datetime.fromisoformat(until).replace(tzinfo=UTC).timestamp()
        return ends_at - time.monotonic()

    @contextmanager
    def activation_held(self) -> Iterator[None]:
        # A trigger that counts for hours: the server is alive inside its transaction until it is
        # killed there.
        self._connection.execute(
            "CREATE TRIGGER hold_activation BEFORE UPDATE ON switcher_host "
            "WHEN NEW.active_digest <> OLD.active_digest BEGIN SELECT (WITH RECURSIVE n(x) AS "
            "(SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 1000000000000) "
            "SELECT max(x) FROM n); END"
        )
        try:
            yield
        finally:
            self._connection.execute("DROP TRIGGER hold_activation")

    def inside_activation(self) -> bool:
        with closing(sqlite3.connect(self._path, isolation_level=None, timeout=0.2)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            other.execute("ROLLBACK")
        return False

    def close(self) -> None:
        self._connection.close()


class PostgresDatabase(Database):
    def __init__(self, data: Path, url: str) -> None:
        import psycopg

        super().__init__(data, {"SWITCHER_DATABASE_URL": url})
        self._url = url
        self._connection = psycopg.connect(url, autocommit=True)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql).fetchall()

    def lease_ends_in(self) -> float:
        left = "extract(epoch FROM until - clock_timestamp())"
        return float(self.row(f"SELECT {left} FROM switcher_lease WHERE owner <> ''")[0])

    @contextmanager
    def activation_held(self) -> Iterator[None]:
        import psycopg

        with psycopg.connect(self._url) as holder:
            # Rows that refer to the host can still be added, as they are before the activation.
            holder.execute("SELECT id FROM switcher_host FOR NO KEY UPDATE")
            yield

    def inside_activation(self) -> bool:
        (waiting,) = self.row(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(waiting)

    def close(self) -> None:
        self._connection.close()


class SQLite:
    """A file for each cell. A context manager; `new` may be called from several threads."""

    name = "SQLite"

    def __init__(self, work: Path, password: str) -> None:
        self._work = work / "sqlite"
        self._password = password

    def __enter__(self) -> SQLite:
        template = self._work / "template"
        template.mkdir(mode=0o700, parents=True)
        database = Database(template, {})
        database.run(PEOPLE.format(password=self._password))
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._work)

    def new(self, name: str) -> Database:
        data = self._work / name
        shutil.copytree(self._work / "template", data)
        data.chmod(0o700)
        return SQLiteDatabase(data)


class PostgreSQL:
    """A cluster of our own on a loopback port, a database for each cell. A context manager."""

    name = "PostgreSQL"

    def __init__(self, work: Path, password: str) -> None:
        self._work = work / "postgresql"
        self._password = password
        self._own = secrets.token_hex(16)
        self._bin = find_postgres()
        self._lock = threading.Lock()

    def __enter__(self) -> PostgreSQL:
        self._work.mkdir(mode=0o700, parents=True)
        # Beside, not in, our own directory: its user may not be ours, and cannot pass through it.
        self._cluster = Path(tempfile.mkdtemp(prefix="switchboard-postgresql-"))
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        secret = self._cluster / "password"
        secret.touch(mode=0o600)
        secret.write_text(self._own)
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            owner = pwd.getpwnam("postgres")
            for path in (self._cluster, secret):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._tool(
            *("initdb", "--pgdata", f"{self._cluster}/data", "--username", "switchboard"),
            *("--pwfile", f"{secret}", "--auth", "scram-sha-256", "--encoding", "UTF8"),
            *("--locale", "C.UTF-8", "--no-sync"),
        )
        options = (
            f"-p {self._port} -c listen_addresses=127.0.0.1 -c max_connections=300 "
            # Our processes are killed, never the database's: nothing need be on the disk.
            "-c fsync=off -c full_page_writes=off "
            f"-c unix_socket_directories={self._cluster}"
        )
        log = f"{self._cluster}/log"
        self._tool("pg_ctl", "-D", f"{self._cluster}/data", "-w", "-l", log, "-o", options, "start")
        self._create("template")
        (self._work / "template").mkdir(mode=0o700)
        url = self._url("template")
        database = Database(self._work / "template", {"SWITCHER_DATABASE_URL": url})
        database.run(PEOPLE.format(password=self._password))

    def __exit__(self, *_: object) -> None:
        if (self._cluster / "data" / "postmaster.pid").exists():
            self._tool("pg_ctl", "-D", f"{self._cluster}/data", "-w", "-m", "immediate", "stop")
        shutil.rmtree(self._cluster)
        shutil.rmtree(self._work)

    def new(self, name: str) -> Database:
        data = self._work / name
        shutil.copytree(self._work / "template", data)
        data.chmod(0o700)
        with self._lock:  # a template is copied by one at a time
            self._create(name, like="template")
        return PostgresDatabase(data, self._url(name))

    def new_empty(self, name: str) -> str:
        """Create a database without tables, and return its URL."""
        self._create(name)
        return self._url(name)

    def _url(self, name: str) -> str:
        return f"postgres://switchboard:{self._own}@127.0.0.1:{self._port}/switchboard-{name}"

    def _create(self, name: str, like: str = "") -> None:
        import psycopg

        url = self._url(name).removesuffix(f"switchboard-{name}") + "postgres"
        template = f' TEMPLATE "switchboard-{like}"' if like else ""
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "switchboard-{name}"{template}')

    def _tool(self, tool: str, *args: str) -> None:
        as_owner = ("runuser", "-u", "postgres", "--") if os.geteuid() == 0 else ()
        with tempfile.TemporaryFile() as output:  # a pipe would stay open in the server
            done = subprocess.run(
                [*as_owner, str(self._bin / tool), *args],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=PATIENCE_S,
            )
            output.seek(0)
            assert done.returncode == 0, output.read().decode()


def find_postgres() -> Path:
    """The directory of PostgreSQL's own programs, the newest version's. Raises `Missing`."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = sorted(
        Path("/usr/lib/postgresql").glob("[0-9]*/bin/initdb"),
        key=lambda path: int(path.parts[-3]),
    )
    if not versions:
        raise Missing(MISSING)
    return versions[-1].parent


ENGINES = {"sqlite": SQLite, "postgresql": PostgreSQL}
