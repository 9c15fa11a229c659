"""Controls that a real server lacks: faults and acts on demand, and its internal state."""

from __future__ import annotations

from aiohttp import web

from ollama_simulator.faults import ACTS, BadFault, Fault, read_fault
from ollama_simulator.gojson import Body
from ollama_simulator.host import HOST
from ollama_simulator.server import Refused
from ollama_simulator.shapes import answer, read_body


async def add_fault(request: web.Request) -> web.Response:
    """POST /_sim/faults {"kind": "fail_load", "tag": "mid-b", "times": 1}, or an act such as
    {"kind": "evict", "tag": "mid-a"}, which happens at once."""
    host, fault = request.app[HOST], await _read(request)
    if fault.kind in ACTS:
        return await _act(request, fault)
    host.server.faults.add(fault)
    return answer({"set": fault.kind})


async def act(request: web.Request) -> web.Response:
    """POST /_sim/acts {"act": "restart"}: the acts that /_sim/faults accepts, under an address of
    their own."""
    body = await read_body(request, "api.Act")
    if "act" in body:
        body["kind"] = body.pop("act")
    if body.get("kind") not in ACTS:
        raise Refused(f"acts are: {', '.join(ACTS)}", 400)
    return await _act(request, _checked(body))


async def _read(request: web.Request) -> Fault:
    return _checked(await read_body(request, "api.Fault"))


def _checked(body: Body) -> Fault:
    try:
        return read_fault(body)
    except BadFault as exc:
        raise Refused(str(exc), 400) from exc


async def _act(request: web.Request, fault: Fault) -> web.Response:
    host = request.app[HOST]
    if fault.kind == "repull" and host.server.catalog.find(fault.fields["tag"]) is None:
        raise Refused(f"there is no model {fault.fields['tag']!r} on the disk", 400)
    response = answer({"done": await host.do(fault, request.transport)})
    if fault.kind in ("restart", "refuse"):
        response.force_close()
    return response


async def clear_faults(request: web.Request) -> web.Response:
    """DELETE /_sim/faults: clear all faults. Their effects remain."""
    request.app[HOST].server.faults.clear()
    return answer({"cleared": True})


async def state(request: web.Request) -> web.Response:
    """GET /_sim/state: counters by model, loaded models, requests, faults and the journal."""
    host = request.app[HOST]
    machine = host.tick().machine
    head = [machine.head] if machine.head is not None else []
    return answer(
        {
            "now": machine.now,
            **{what: dict(counter) for what, counter in machine.counts.items()},
            "in_flight": sum(len(r.asks) for r in machine.runners),
            "pending": sum(not a.ended for a in [*head, *machine.queue]),
            "runners": [
                {"name": r.name, "digest": r.manifest.digest, "busy": len(r.asks), "dead": r.dead}
                for r in machine.runners
            ],
            "loading": machine.loading.name if machine.loading is not None else None,
            "faults": [
                {"kind": f.kind, **f.fields, "times": f.times} for f in host.server.faults.rows
            ],
            "journal": list(machine.journal),
        }
    )
