"""The command line: `python -m ollama_simulator` and `manage.py simulator` share it."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
from typing import Any

from ollama_simulator.catalog import valid_name
from ollama_simulator.durations import BadDuration, keep_alive_s
from ollama_simulator.faults import ACTS, BadFault, Fault, read_fault
from ollama_simulator.host import Host
from ollama_simulator.runner import Config
from ollama_simulator.server import Server
from ollama_simulator.serving import serve
from ollama_simulator.versions import read_version

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|TB)?$", re.IGNORECASE)
FLAGS = ("embed", "cloud", "image", "audio", "mlx")
_UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def size_bytes(text: str) -> int:
    """Parse `4.7GB`, `500MB` or a plain number of bytes. Units are decimal, as in Ollama."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write for example 4.7GB")
    return round(float(match[1]) * _UNITS[(match[2] or "B").upper()])


def _rate(text: str) -> int:
    rate = size_bytes(text)
    if not rate:
        raise argparse.ArgumentTypeError("the load rate must be above 0")
    return rate


def _duration(text: str) -> float:
    try:
        return keep_alive_s(text)
    except BadDuration as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _version(text: str) -> str:
    try:
        read_version(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return text


def _at_least(least: int) -> Any:
    def number(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return number


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _model(text: str) -> tuple[str, dict[str, Any]]:
    """Parse TAG=SIZE with flags after it."""
    tag, equals, rest = text.partition("=")
    size, *flags = rest.split(",")
    if not equals or not valid_name(tag):
        raise argparse.ArgumentTypeError(f"{text!r}: write TAG=SIZE, for example mid-a=400MB")
    values: dict[str, Any] = {"size": size_bytes(size)}
    for flag in flags:
        name, _, value = flag.partition("=")
        if name == "ctx" and value.isdigit():
            values["num_ctx"] = int(value)
        elif name == "digest" and re.fullmatch(r"[0-9a-f]{12,64}", value):
            values["digest"] = value.ljust(64, "0")
        elif flag == "embed":
            values["embeds"] = True
        elif flag == "cloud":
            values["remote_host"] = "https://ollama.com:443"
        elif flag in ("image", "audio", "mlx"):
            values["kind"] = flag
        else:
            text = f"{flag!r} is not one of {', '.join(FLAGS)}, ctx=N, digest=HEX"
            raise argparse.ArgumentTypeError(text)
    return tag, values


def _fault(text: str) -> Fault:
    try:
        fault = read_fault(json.loads(text))
    except (BadFault, ValueError) as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    if fault.kind in ACTS:
        raise argparse.ArgumentTypeError(f"{fault.kind} is an act, which needs a running server")
    return fault


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the simulator's options to a parser."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=11500, help="port to listen on; 0: any")
    add(
        "--vram",
        type=size_bytes,
        default=size_bytes("24GB"),
        metavar="SIZE",
        help="VRAM of the GPU; 0: no GPU",
    )
    add(
        "--model",
        type=_model,
        action="append",
        default=[],
        metavar="TAG=SIZE[,embed][,ctx=N][,digest=HEX]",
        help=f"an installed model; may be repeated. Other flags: {', '.join(FLAGS[1:])}",
    )
    add(
        "--load-rate",
        type=_rate,
        default=size_bytes("2GB"),
        metavar="SIZE",
        help="bytes loaded per second",
    )
    add(
        "--tokens-per-s",
        type=_positive,
        default=60.0,
        help="tokens per second of a reply, all in VRAM",
    )
    add("--max-loaded", type=_at_least(0), default=0, help="models loaded at once; 0: three")
    add("--max-queue", type=_at_least(0), default=512, help="requests that may wait for a load")
    add("--parallel", type=_at_least(1), default=1, help="replies that one model generates at once")
    add("--default-keep-alive", type=_duration, default=300.0, metavar="5m")
    add(
        "--headroom",
        type=_positive,
        default=0.8,
        help="share of the free VRAM that another model may use before one is evicted",
    )
    add(
        "--as-version",
        type=_version,
        metavar="X.Y.Z",
        help="act as this version of Ollama, without what came later",
    )
    add("--seed", type=int, default=0, help="seed for the generated text")
    add(
        "--fault",
        action="append",
        default=[],
        type=_fault,
        metavar="JSON",
        help='a fault set at startup, for example {"kind": "slow_load"}',
    )


def make_host(options: argparse.Namespace) -> Host:
    """Return the host that the options describe."""
    config = Config(
        vram=options.vram,
        load_rate=options.load_rate,
        tokens_per_s=options.tokens_per_s,
        max_loaded=options.max_loaded,
        max_queue=options.max_queue,
        parallel=options.parallel,
        default_keep_alive_s=options.default_keep_alive,
        headroom=options.headroom,
        as_version=options.as_version or "",
    )
    server = Server(config)
    for tag, values in options.model:
        server.add_model(tag, **values)
    for fault in options.fault:
        server.faults.add(fault)
    return Host(server, options.seed)


def run(options: argparse.Namespace) -> int:
    """Serve the host that the options describe until a signal arrives; return the exit code."""
    return asyncio.run(serve(make_host(options), options.host, options.port))


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="simulator", description="A simulated Ollama server over real HTTP."
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))
