"""What a real server does not have: faults on demand, acts of fate, and a look inside."""

from __future__ import annotations

import asyncio

from aiohttp import web

from switcher.simulator.catalog import full_name
from switcher.simulator.host import Host
from switcher.simulator.native import HOST, Body, answer, error, read_body


async def add_fault(request: web.Request) -> web.Response:
    """POST /_sim/faults {"kind": "fail_load", "tag": "mid-b", "times": 1}."""
    try:
        fault = request.app[HOST].faults.add(await read_body(request))
    except (ValueError, TypeError) as exc:
        return error(str(exc), 400)
    return answer({"set": fault.kind})


async def clear_faults(request: web.Request) -> web.Response:
    request.app[HOST].faults.clear()
    return answer({"cleared": True})


async def state(request: web.Request) -> web.Response:
    host = request.app[HOST]
    host.tick()
    machine = host.machine
    return answer(
        {
            **machine.counts,
            "now": machine.now,
            "pending": len(machine.pending),
            "in_flight": sum(len(r.running) for r in machine.runners),
            "runners": [r.name for r in machine.runners if not r.loading],
            "loading": [r.name for r in machine.runners if r.loading],
            "journal": machine.journal,
        }
    )


async def act(request: web.Request) -> web.Response:
    """POST /_sim/acts {"act": "evict", "tag": "mid-a"}: restart, evict, kill_runner, repull,
    refuse (connections, for `seconds`)."""
    host, body = request.app[HOST], await read_body(request)
    if body.get("act") == "refuse" and host.refuse is not None:
        seconds = float(body.get("seconds") or 5.0)
        asyncio.get_running_loop().create_task(host.refuse(seconds))
        return answer({"done": True})
    host.tick()
    done = _do(host, body)
    host.tick()
    if done is None:
        return error("acts are: restart, evict, kill_runner, repull, refuse", 400)
    return answer({"done": done})


def _do(host: Host, body: Body) -> bool | None:
    tag = str(body.get("tag") or "")
    listed = {full_name(r.name): r.name for r in host.machine.runners}
    name = listed.get(full_name(tag), tag)
    match body.get("act"):
        case "restart":
            host.machine.restart()
            return True
        case "evict":
            return host.machine.evict(name)
        case "kill_runner":
            return host.machine.kill_runner(name)
        case "repull":
            return host.catalog.repull(tag, host.now())
    return None
