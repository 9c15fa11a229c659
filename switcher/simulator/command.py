"""The command line: `python -m switcher.simulator` and `manage.py simulator` share it."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
from functools import partial

from aiohttp import web

from switcher.simulator.app import make_app
from switcher.simulator.catalog import make_manifest, valid_name
from switcher.simulator.durations import BadDuration, keep_alive_s
from switcher.simulator.host import Host
from switcher.simulator.machine import Config

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*(B|KB|MB|GB|TB)?$", re.IGNORECASE)
_UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def size_bytes(text: str) -> int:
    """`4.7GB`, `500MB` or a bare number of bytes; decimal units, as Ollama shows sizes."""
    match = _SIZE.match(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write for example 4.7GB")
    return round(float(match[1]) * _UNITS[(match[2] or "B").upper()])


def _duration(text: str) -> float:
    try:
        return keep_alive_s(text)
    except BadDuration as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _model(text: str) -> tuple[str, int, bool, int]:
    """TAG=BYTES[,embed][,ctx=N]"""
    tag, equals, rest = text.partition("=")
    size, *flags = rest.split(",")
    if not equals or not valid_name(tag):
        raise argparse.ArgumentTypeError(f"{text!r}: write TAG=SIZE, for example mid-a=400MB")
    ctx = 0
    for flag in flags:
        if flag.startswith("ctx=") and flag[4:].isdigit():
            ctx = int(flag[4:])
        elif flag != "embed":
            raise argparse.ArgumentTypeError(f"{flag!r} is neither embed nor ctx=N")
    return tag, size_bytes(size), "embed" in flags, ctx


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, for whoever parses them."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=11500, help="port to listen on; 0: any")
    parser.add_argument("--vram", type=size_bytes, default=size_bytes("24GB"), metavar="SIZE")
    parser.add_argument(
        "--model",
        type=_model,
        action="append",
        default=[],
        metavar="TAG=SIZE[,embed][,ctx=N]",
        help="a model on its disk; may be given many times",
    )
    parser.add_argument("--load-rate", type=size_bytes, default=size_bytes("2GB"), metavar="SIZE")
    parser.add_argument("--tokens-per-s", type=float, default=60.0)
    parser.add_argument("--max-loaded", type=int, default=0, help="0: as many as fit")
    parser.add_argument("--max-queue", type=int, default=512)
    parser.add_argument("--default-keep-alive", type=_duration, default=300.0, metavar="5m")
    parser.add_argument("--seed", type=int, default=0, help="of what the models say")
    parser.add_argument("--fault", action="append", default=[], type=json.loads, metavar="JSON")


def make_host(options: argparse.Namespace) -> Host:
    """The host that the options describe."""
    config = Config(
        vram=options.vram,
        load_rate=options.load_rate,
        tokens_per_s=options.tokens_per_s,
        max_loaded=options.max_loaded,
        max_queue=options.max_queue,
        default_keep_alive_s=options.default_keep_alive,
    )
    host = Host(config, options.seed)
    for tag, size, embeds, ctx in options.model:
        host.catalog.add(tag, make_manifest(tag, size, embeds, ctx), 0.0)
    for fault in options.fault:
        host.faults.add(fault)
    return host


def main(argv: list[str] | None = None) -> int:
    """Serve until a signal ends it. Returns the exit code."""
    parser = argparse.ArgumentParser(description="An Ollama server, simulated, over real HTTP.")
    add_arguments(parser)
    return run(parser.parse_args(argv))


def run(options: argparse.Namespace) -> int:
    """Serve what the options describe."""
    try:
        host = make_host(options)
    except (ValueError, TypeError) as exc:
        print(f"simulator: {exc}", flush=True)
        return 2
    return asyncio.run(_serve(host, options.host, options.port))


async def _serve(host: Host, address: str, port: int) -> int:
    # A client that goes away cancels its handler, and so its load (fact 9).
    runner = web.AppRunner(make_app(host), handler_cancellation=True, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, address, port, shutdown_timeout=0.5)
    try:
        await site.start()
    except OSError as exc:
        print(f"simulator: cannot listen on {address} port {port}: {exc.strerror}", flush=True)
        return 1
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    real_port = runner.addresses[0][1]
    host.refuse = partial(_refuse, runner, address, real_port)
    print(f"simulator listening on http://{address}:{real_port}", flush=True)
    await stop.wait()
    await runner.cleanup()
    return 0


async def _refuse(runner: web.AppRunner, address: str, port: int, seconds: float) -> None:
    """Nobody listens for a while, and who is connected is cut off."""
    for site in list(runner.sites):
        await site.stop()
    for connection in runner.server.connections if runner.server else []:
        if connection.transport is not None:
            connection.transport.abort()
    await asyncio.sleep(seconds)
    await web.TCPSite(runner, address, port).start()
