"""Two servers on one PostgreSQL database, whose clocks do not agree."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from switcher.domain.states import State, Strategy
from tests.journeys.product import PASSWORDS, simulated_host
from tests.killmatrix.cells import HOST, Cell, Server, Stage
from tests.killmatrix.engines import PostgreSQL
from tests.killmatrix.test_killmatrix import needs_postgres
from tests.until import until

AHEAD_S = 20.0  # more than a lease lasts


@pytest.mark.killmatrix
def test_a_server_whose_clock_is_ahead_leaves_the_switch_of_another_alone(tmp_path: Path) -> None:
    needs_postgres()
    cell = Cell(State.LOADING, Strategy.SWAP, State.ACTIVE, "two servers")
    with ExitStack() as stack:
        engine = stack.enter_context(PostgreSQL(tmp_path, PASSWORDS["admin"]))
        host = stack.enter_context(simulated_host())
        database = stack.enter_context(closing(engine.new("clocks")))
        database.run(HOST.format(url=host.url))
        stage = Stage(cell, host, database)
        first = stack.enter_context(Server(database))
        stage.sign_in(first)
        assert stage.switch("mid-a") == ""
        ahead = stack.enter_context(Server(database, AHEAD_S))
        host.fault(kind="slow_load", tag="mid-b", factor=6)  # longer than workers look for work
        stage.begin()
        until(lambda: stage.state in {State.ACTIVE, State.ROLLED_BACK, State.FAILED})
        assert stage.state is State.ACTIVE
        host.clear_faults()
        stage.follow(ahead)
        assert stage.switch("mid-a") == ""
        fences = "SELECT count(*) FROM switcher_auditentry WHERE kind = 'switch.rolled_back'"
        assert database.row(fences) == (0,)
