"""One cell of the matrix: a switch is held in one of its states, its server is killed there, and
another one is started on the same data.

Nothing in the product knows of this: a switch is held by the simulator's faults, in one case by
the database, and in one by the lease of a worker that has died before.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise

import requests

from switcher.audit.verifier.switchboard_verify import Verifier
from switcher.domain.states import ENDED, OPEN, TRANSITIONS, State, Strategy
from tests.journeys.product import sign_in, simulated_host
from tests.killmatrix.engines import Database
from tests.server.process import ROOT, Process
from tests.simulated import SimulatedOllama
from tests.until import PATIENCE_S, until

TRUTH_WITHIN_S = 60.0  # of the lease's end (rule 7)

HOST = """
import django; django.setup()
from switcher.models import Host
from switcher.records import config
from switcher.audit.ledger import SERVER
config.save_host(
    Host(name="north-1", base_url={url!r}, vram_bytes=10_000_000_000, simulated=True), SERVER
)
"""
DEAD_WORKER = """
import django; django.setup()
from switcher.models import Host
from switcher.records import leases
assert leases.take(Host.objects.get().pk, "a worker that died")
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """Where the server is killed, and how the switch has to end then."""

    state: State
    strategy: Strategy
    end: State
    how: str  # what is under way at that moment, for people
    clock_s: float = 0.0  # how far the next server's wall clock is ahead

    @property
    def name(self) -> str:
        clock = "-clock-ahead" if self.clock_s > 0 else "-clock-back" if self.clock_s < 0 else ""
        return f"{self.state.value}-{self.strategy.value}{clock}"


_BACK, _ON = State.ROLLED_BACK, State.ACTIVE
_OVERLAP, _SWAP = Strategy.OVERLAP, Strategy.SWAP
CELLS = (
    Cell(State.QUEUED, _OVERLAP, _ON, "recorded; no worker has it yet"),
    Cell(State.QUEUED, _SWAP, _ON, "recorded; no worker has it yet"),
    Cell(State.CHECKING, _OVERLAP, _ON, "the host is asked what it holds"),
    Cell(State.CHECKING, _SWAP, _ON, "the host is asked what is on its disk"),
    Cell(State.DRAINING, _SWAP, _BACK, "a client's request runs"),
    Cell(State.LOADING, _OVERLAP, _BACK, "the new model is being loaded"),
    Cell(State.LOADING, _SWAP, _BACK, "the old model has left, the new one is being loaded"),
    Cell(State.LOADING, _SWAP, _BACK, "as above; the next server's clock is 1 h behind", -3600.0),
    Cell(State.LOADING, _SWAP, _BACK, "as above; the next server's clock is 1 h ahead", 3600.0),
    Cell(State.WARMING, _OVERLAP, _BACK, "both are loaded; a warm-up prompt is not answered yet"),
    Cell(State.WARMING, _SWAP, _BACK, "only the new one is loaded; its warm-up is not answered"),
    Cell(State.VERIFYING, _OVERLAP, _BACK, "both are loaded; the host is read again"),
    Cell(State.VERIFYING, _SWAP, _BACK, "only the new one is loaded; the host is read again"),
    Cell(State.ACTIVATING, _OVERLAP, _ON, "inside the transaction that changes the configuration"),
    Cell(State.ACTIVATING, _SWAP, _ON, "just before that transaction"),
    Cell(State.UNLOADING, _OVERLAP, _ON, "activated; the old model does not leave yet"),
    Cell(State.UNLOADING, _SWAP, _BACK, "the old model's unload is not answered yet"),
    Cell(State.RESTORING, _OVERLAP, _BACK, "the load failed; the host is asked what it has"),
    Cell(State.RESTORING, _SWAP, _BACK, "the load failed; the old model is being loaded again"),
)


@dataclass(slots=True)
class Result:
    """What came of one cell. `problems` is empty when all is as it must be."""

    cell: Cell
    engine: str
    seconds: float = 0.0  # from the new server's listening to the end of the switch
    lease_s: float = 0.0  # of these, until the dead worker's lease had run out
    end: str = ""
    problems: tuple[str, ...] = ()


class Server(Process):
    """`manage.py serve` on a database of any engine."""

    def __init__(self, database: Database, clock_s: float = 0.0) -> None:
        self.address = ""
        self.lines: list[str] = []
        shifted = ("-m", "tests.killmatrix.shifted_server", str(clock_s))
        program = shifted if clock_s else ("manage.py",)
        self.popen = subprocess.Popen(
            [sys.executable, *program, "serve", "--port", "0"],
            env=database.env,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Server:
        super().__enter__()
        return self

    def kill(self) -> None:
        """`kill -9`: nothing of it runs a line further."""
        self.popen.kill()
        self.popen.wait(PATIENCE_S)


class Stage:
    """One cell under way: a host, a database, and what a person sees of them."""

    def __init__(self, cell: Cell, host: SimulatedOllama, database: Database) -> None:
        self.cell = cell
        self.host = host
        self.database = database
        self.switch_id = 0

    def sign_in(self, server: Server) -> None:
        self._session = sign_in(server.address)
        self.follow(server)

    def follow(self, server: Server) -> None:
        """Talk to this server from now on, with the same session."""
        self._address = server.address

    def ask(self, model: str, strategy: Strategy, wait: bool) -> requests.Response:
        body = {"model": model, "strategy": strategy.value, "wait": wait}
        return self._session.post(
            f"{self._address}/ollama/models/switch", json=body, timeout=PATIENCE_S
        )

    def switch(self, model: str) -> str:
        """Switch and wait for the end; gives what the answer says, empty if it is active."""
        answer = self.ask(model, Strategy.AUTO, wait=True)
        return "" if answer.status_code == 200 else f"{answer.status_code}: {answer.text[:300]}"

    def begin(self) -> None:
        """Ask for the switch that is to be killed."""
        answer = self.ask("mid-b", self.cell.strategy, wait=False)
        assert answer.status_code == 202, answer.text
        ((self.switch_id,),) = self.database.rows("SELECT max(id) FROM switcher_switchevent")

    @property
    def state(self) -> State:
        sql = f"SELECT state FROM switcher_switchevent WHERE id = {self.switch_id}"
        return State(self.database.row(sql)[0])

    def until(self, state: State) -> None:
        """Wait until the row shows this state."""
        reached: list[State] = []

        def shows() -> bool:
            reached[:] = [self.state]
            if reached[0] in ENDED and state not in ENDED:
                raise AssertionError(f"it ended as {reached[0]} and was never {state}")
            return reached == [state]

        try:
            until(shows)
        except AssertionError as exc:
            raise AssertionError(f"never seen {state}: last {reached[0]}. {exc}") from exc

    def until_host_loads(self, model: str) -> None:
        """Wait until the load of this model is under way on the host itself."""
        until(lambda: self.host.is_loading(model))

    def client_asks(self) -> None:
        """A client's request through the gateway, which lasts. Whoever asks dies with it."""
        body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}

        def ask() -> None:
            try:
                requests.post(f"{self._address}/v1/chat/completions", json=body, timeout=PATIENCE_S)
            except requests.RequestException:
                pass

        self.host.fault(kind="hang", path="/v1/chat", times=1)
        threading.Thread(target=ask, daemon=True).start()

        def arrived() -> bool:
            state = requests.get(f"{self.host.url}/_sim/state", timeout=PATIENCE_S).json()
            return not state["faults"]  # it has struck

        until(arrived)


Hold = Callable[[Stage], None]


@contextmanager
def held(stage: Stage) -> Iterator[None]:
    """Begin the switch and hold it in the cell's state while the block lasts."""
    state, strategy = stage.cell.state, stage.cell.strategy
    with ExitStack() as to_release:
        to_release.callback(stage.host.clear_faults)
        _prepare(stage)
        stage.begin()
        _steer(stage)
        if state is State.ACTIVATING and strategy is _OVERLAP:
            to_release.enter_context(stage.database.activation_held())
        stage.until(state)
        if state is State.ACTIVATING and strategy is _OVERLAP:
            until(stage.database.inside_activation)
        if state is State.RESTORING and strategy is _SWAP:
            stage.until_host_loads("mid-a")
        yield


def _prepare(stage: Stage) -> None:
    """What has to be so before the switch is asked for."""
    host, swap = stage.host, stage.cell.strategy is _SWAP
    match stage.cell.state:
        case State.QUEUED:
            stage.database.run(DEAD_WORKER)
        case State.CHECKING:
            host.fault(kind="hang", path="/api/tags" if swap else "/api/ps")
        case State.DRAINING:
            stage.client_asks()
        case State.LOADING:
            host.fault(kind="slow_load", tag="mid-b", factor=100)
        case State.WARMING | State.VERIFYING | State.ACTIVATING:
            host.fault(kind="slow_load", tag="mid-b", factor=2)
        case State.UNLOADING if swap:
            host.fault(kind="hang", path="/api/generate")
        case State.UNLOADING:
            host.fault(kind="ignore_unload", tag="mid-a")
        case State.RESTORING:
            host.fault(kind="fail_load", tag="mid-b", after_s=1.0)
            if swap:
                host.fault(kind="slow_load", tag="mid-a", factor=100)


def _steer(stage: Stage) -> None:
    """What has to happen in the middle: while the load is under way, its next call is held."""
    host, swap = stage.host, stage.cell.strategy is _SWAP
    fault: dict[str, object]
    match stage.cell.state:
        case State.WARMING:
            fault = {"kind": "hang", "path": "/api/generate"}
        case State.VERIFYING:
            fault = {"kind": "hang", "path": "/api/ps"}
        case State.ACTIVATING if swap:
            fault = {"kind": "delay", "path": "/api/ps", "seconds": 0.7}
        case State.RESTORING if not swap:
            fault = {"kind": "hang", "path": "/api/tags"}
        case State.LOADING | State.ACTIVATING:
            fault = {}
        case _:
            return
    stage.until_host_loads("mid-b")
    if fault:
        host.fault(**fault)


def play(cell: Cell, engine: str, database: Database) -> Result:
    """Play one cell; never raises: what went wrong is in the result."""
    result = Result(cell, engine)
    try:
        with simulated_host() as host:
            database.run(HOST.format(url=host.url))
            _play(Stage(cell, host, database), result)
    except Exception as exc:
        result.problems += (f"{type(exc).__name__}: {exc}",)
    return result


def _play(stage: Stage, result: Result) -> None:
    with Server(stage.database) as first:
        stage.sign_in(first)
        if text := stage.switch("mid-a"):
            raise AssertionError(f"mid-a did not become active: {text}")
        with held(stage):
            first.kill()
    died_in = stage.state
    assert died_in is stage.cell.state, f"killed too late: it was {died_in} already"
    with Server(stage.database, stage.cell.clock_s) as second:
        began = time.monotonic()
        result.lease_s = max(0.0, stage.database.lease_ends_in())
        stage.follow(second)
        meanwhile = stage.ask("mid-a", Strategy.AUTO, wait=False)
        within = result.lease_s + TRUTH_WITHIN_S
        try:
            until(lambda: stage.state in ENDED, within)
        except AssertionError:
            raise AssertionError(
                f"still {stage.state} after {within:.0f} s.\n{second.output[-2000:]}"
            ) from None
        result.seconds = time.monotonic() - began
        result.end = stage.state.value
        result.problems = tuple(_problems(stage, meanwhile))


def _problems(stage: Stage, meanwhile: requests.Response) -> Iterator[str]:
    """Everything that is not as it must be, now that the switch has ended."""
    if meanwhile.status_code != 409 or "already switching" not in meanwhile.text:
        yield f"a second switch was not refused: {meanwhile.status_code} {meanwhile.text[:200]}"
    if stage.state is not stage.cell.end:
        (why,) = stage.database.row(
            f"SELECT error || ' ' || outcome FROM switcher_switchevent WHERE id = {stage.switch_id}"
        )
        yield f"it ended as {stage.state}, not {stage.cell.end}: {why}"
    yield from _told_falsely(stage)
    yield from _wrong_entries(stage)
    yield from _broken_trail(stage)
    other = "mid-a" if _active_tag(stage) == "mid-b" else "mid-b"
    if text := stage.switch(other):
        yield f"a further switch to {other} failed: {text}"
    yield from _told_falsely(stage)
    if stage.host.resident() != {other}:
        yield f"after a further switch the host holds {stage.host.resident()}, not {other} alone"
    if opened := stage.database.rows(
        "SELECT id, state FROM switcher_switchevent WHERE state IN "
        + str(tuple(s.value for s in sorted(OPEN)))
    ):
        yield f"still open: {opened}"


def _active_tag(stage: Stage) -> str:
    return str(stage.database.row("SELECT active_tag FROM switcher_host")[0])


def _told_falsely(stage: Stage) -> Iterator[str]:
    """What is recorded as active is what the host lists, alone; or the host is called degraded."""
    tag, digest, degraded = stage.database.row(
        "SELECT active_tag, active_digest, degraded FROM switcher_host"
    )
    rows = requests.get(f"{stage.host.url}/api/ps", timeout=PATIENCE_S).json()["models"]
    listed = {row["digest"]: row["name"] for row in rows}
    if degraded:
        yield f"the host is degraded: {degraded}"
    if digest not in listed:
        if not degraded:
            yield f"{tag} is recorded as active, and the host holds {sorted(listed.values())}"
    elif len(listed) > 1:
        yield f"beside the active {tag} the host holds {sorted(listed.values())}"


def _wrong_entries(stage: Stage) -> Iterator[str]:
    """The audit entries tell the way of the switch: allowed moves, one end, one activation."""
    entries = stage.database.rows(
        "SELECT kind, body FROM switcher_auditentry JOIN switcher_ledgerrow USING (seq) "
        f"WHERE switch_id = {stage.switch_id} ORDER BY seq"
    )
    way = [State(found[1]) for kind, _ in entries if (found := _STATE.fullmatch(kind))]
    for left, right in pairwise(way):
        if right not in TRANSITIONS[left]:
            yield f"the entries tell of a move from {left} to {right}"
    if way[:1] != [State.QUEUED] or stage.cell.state not in way:
        yield f"the entries do not tell the way: {[s.value for s in way]}"
    if [s for s in way if s in ENDED] != [stage.state] or way[-1] is not stage.state:
        yield f"it is {stage.state}, and the entries tell {[s.value for s in way]}"
    fences = [json.loads(body)["facts"].get("fence", 0) for _, body in entries]
    if fences != sorted(fences) or len(set(fences) - {0}) < 1:
        yield f"an entry was written with an older fence: {fences}"
    activated = [kind for kind, _ in entries].count("host.activated")
    if activated != (stage.state is State.ACTIVE):
        yield f"{activated} entries tell of an activation, and it ended as {stage.state}"


def _broken_trail(stage: Stage) -> Iterator[str]:
    """The trail as a whole: every entry follows from the one before it."""
    rows = stage.database.rows("SELECT seq, body, prev, hash FROM switcher_ledgerrow ORDER BY seq")
    verifier = Verifier()
    verifier.add(rows)
    report = verifier.report()
    if not report.intact:
        yield f"the audit trail is broken: {report.problems[0]}"


_STATE = re.compile(r"switch\.(" + "|".join(s.value for s in State) + ")")
