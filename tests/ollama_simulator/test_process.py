from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys

import pytest

from ollama_simulator.command import make_host, size_bytes
from tests.ollama_simulator.conftest import MODELS, Ollama, simulator
from tests.until import PATIENCE_S

COMMAND = [sys.executable, "-m", "ollama_simulator"]


def run(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *flags], capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_code_0(number: signal.Signals) -> None:
    with subprocess.Popen([*COMMAND, "--port=0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("simulator listening on http://127.0.0.1:")
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE_S) == 0


def test_a_signal_ends_it_under_hanging_requests() -> None:
    with simulator(MODELS, '--fault={"kind": "hang", "path": "/api/ps"}') as ollama:
        hanging = ollama.raw("/api/generate", {"model": "mid-a"})
    hanging.close()


def test_a_port_in_use_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(f"--port={taken.getsockname()[1]}")
    assert done.returncode == 1
    assert done.stdout.startswith("simulator: cannot listen on 127.0.0.1 port ")
    assert done.stderr == ""


@pytest.mark.parametrize(
    "flag",
    [
        "--model=mid-a",
        "--model=mid-a=lots",
        "--model=a b=1GB",
        "--model=mid-a=1GB,big",
        "--model=mid-a=1GB,digest=xyz",
        "--vram=much",
        "--load-rate=0",
        "--tokens-per-s=0",
        "--parallel=0",
        "--default-keep-alive=5",
        "--fault=[]",
        "--fault=nonsense",
        '--fault={"kind": "fire"}',
        '--fault={"kind": "restart"}',
    ],
)
def test_what_makes_no_sense_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    from ollama_simulator.command import main

    with pytest.raises(SystemExit) as caught:
        main([flag])
    assert caught.value.code == 2
    assert "error: argument --" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("24GB", 24 * 10**9), ("0.5 gb", 5 * 10**8), ("12", 12), ("3KB", 3000)]
)
def test_sizes_are_decimal(text: str, size: int) -> None:
    assert size_bytes(text) == size


def test_options_make_the_host_that_they_describe() -> None:
    import argparse

    from ollama_simulator.command import add_arguments

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    flags = ["--model=a=1GB,ctx=2048,digest=abcdefabcdef", "--vram=0", "--default-keep-alive=-1s"]
    server = make_host(parser.parse_args([*flags, "--model=e=1MB,embed"])).server
    manifest = server.resolve("a")
    assert (manifest.num_ctx, manifest.digest) == (2048, "abcdefabcdef".ljust(64, "0"))
    assert server.resolve("e").capabilities == ["embedding"]
    assert server.config.default_keep_alive_s > 9e9


def test_it_loads_nothing_of_the_product_nor_django() -> None:
    code = (
        "import sys, ollama_simulator.command\n"
        "print([m for m in sys.modules if m.startswith('django') or m.startswith('requests') or "
        "m.startswith('switcher.') and not m.startswith('ollama_simulator')])"
    )
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=20
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_it_is_recognised_by_its_version() -> None:
    with simulator(MODELS) as ollama:
        assert isinstance(ollama, Ollama)
        assert ollama.get("/api/version") == {"version": "0.0.0-simulated"}
