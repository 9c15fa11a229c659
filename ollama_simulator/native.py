"""The part of `/api` that lists and changes models; formats and texts as recorded."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator

from aiohttp import web

from ollama_simulator import replies
from ollama_simulator.catalog import (
    TRAINED_CTX,
    Manifest,
    full_name,
    make_manifest,
    valid_name,
)
from ollama_simulator.gojson import Body
from ollama_simulator.host import HOST
from ollama_simulator.runner import BLOCKS, head_length
from ollama_simulator.server import Refused, read_options
from ollama_simulator.shapes import V1_TYPE, answer, line, read_body, stream
from ollama_simulator.versions import DETAILS, PS, SHOW, TAGS, known_to

VERSION = "0.0.0-simulated"
BYTES_PER_PARAMETER = 0.6
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
NOT_SIGNED_IN = {"error": "you are not authorized to push to this namespace"}
NO_SUCH = {"error": "pull model manifest: file does not exist"}


def _human(count: float) -> str:
    if count >= 1e9:
        return f"{count / 1e9:.1f}B"
    return f"{count / 1e6:.2f}M" if count >= 1e6 else f"{count / 1e3:.0f}K"


def details(manifest: Manifest) -> Body:
    family = "nomic-bert" if manifest.embeds else "llama"
    return {
        "parent_model": "",
        "format": "safetensors" if manifest.kind == "mlx" else "gguf",
        "family": family,
        "families": [family],
        "parameter_size": _human(manifest.size / BYTES_PER_PARAMETER),
        "quantization_level": "Q4_K_M",
    }


async def root(request: web.Request) -> web.Response:
    return web.Response(text="Ollama is running")


async def version(request: web.Request) -> web.Response:
    return answer({"version": request.app[HOST].server.config.as_version or VERSION})


async def tags(request: web.Request) -> web.Response:
    host = request.app[HOST]
    catalog, version = host.tick().catalog, host.server.config.version
    rows = [
        {
            "name": name,
            "model": name,
            "modified_at": host.wall(catalog.changed_at[name]),
            "size": manifest.size,
            "digest": manifest.digest,
            "details": details(manifest) | known_to(version, _lengths(manifest), DETAILS),
            "capabilities": manifest.capabilities,
            **_remote(name, manifest),
        }
        for name, manifest in catalog.listed()
    ]
    return answer({"models": [known_to(version, row, TAGS) for row in rows]})


def _remote(name: str, manifest: Manifest) -> Body:
    if not manifest.remote_host:
        return {}
    base = name.removesuffix("-cloud").removesuffix(":cloud")
    return {"remote_model": base, "remote_host": manifest.remote_host}


def _lengths(manifest: Manifest) -> Body:
    length = replies.EMBEDDING_LENGTH if manifest.embeds else 4096
    return {"context_length": TRAINED_CTX, "embedding_length": length}


async def ps(request: web.Request) -> web.Response:
    """List loaded models (fact 18)."""
    host = request.app[HOST]
    rows = [
        {
            "name": row.name,
            "model": row.name,
            "size": row.size,
            "digest": row.digest,
            "details": details(row.manifest),
            "expires_at": host.wall(row.expires_at),
            "size_vram": row.size_vram,
            "context_length": row.context_length,
        }
        for row in host.tick().ps()
    ]
    return answer({"models": [known_to(host.server.config.version, row, PS) for row in rows]})


async def show(request: web.Request) -> web.Response:
    host, body = request.app[HOST], await read_body(request, "api.ShowRequest")
    name = str(body.get("model") or body.get("name") or "")
    return answer(show_answer(host.tick().catalog.known(name), _shown(request, name), request))


def _shown(request: web.Request, name: str) -> Manifest:
    if not name:
        raise Refused("model is required", 400)
    if not valid_name(name):
        raise Refused("invalid model name", 400)
    manifest = request.app[HOST].server.catalog.find(name)
    if manifest is None:
        raise Refused(f"model '{full_name(name)}' not found", 404)
    return manifest


def show_answer(name: str, manifest: Manifest, request: web.Request) -> Body:
    host = request.app[HOST]
    lengths = _lengths(manifest)
    kept = {
        "general.architecture": "llama",
        "general.file_type": 15,
        "general.parameter_count": round(manifest.size / BYTES_PER_PARAMETER),
        "general.quantization_version": 2,
        "llama.attention.head_count": 32,
        "llama.attention.head_count_kv": 1,
        "llama.attention.key_length": head_length(manifest),
        "llama.attention.value_length": head_length(manifest),
        "llama.block_count": BLOCKS,
        "llama.context_length": lengths["context_length"],
        "llama.embedding_length": lengths["embedding_length"],
        "tokenizer.ggml.tokens": None,
    }
    pooling = {"llama.pooling_type": 1} if manifest.embeds else {}
    row = {
        "modelfile": f'# Modelfile generated by "ollama show"\n# FROM {name}\n\n'
        f"FROM /models/blobs/sha256-{manifest.blob}\nTEMPLATE {{{{ .Prompt }}}}\n"
        f"PARAMETER num_ctx {manifest.num_ctx}\n",
        "parameters": f"num_ctx                        {manifest.num_ctx}",
        "template": "{{ .Prompt }}",
        "details": details(manifest),
        "model_info": kept | pooling,
        "tensors": [{"name": "output.weight", "type": "F16", "shape": [4096, 32000]}],
        "capabilities": manifest.capabilities,
        "modified_at": host.wall(host.server.catalog.changed_at[name]),
    }
    return known_to(host.server.config.version, row, SHOW)


async def copy(request: web.Request) -> web.Response:
    """Copy a model (fact 21); respond once the destination is complete (fact 26)."""
    host, body = request.app[HOST], await read_body(request, "api.CopyRequest")
    source, destination = str(body.get("source", "")), str(body.get("destination", ""))
    await asyncio.sleep(host.tick().copy(source, destination))
    return web.Response()


async def delete(request: web.Request) -> web.Response:
    host, body = request.app[HOST], await read_body(request, "api.DeleteRequest")
    host.tick().delete(str(body.get("model") or body.get("name") or ""))
    return web.Response()


async def create(request: web.Request) -> web.StreamResponse:
    """Create a model `from` another one with different parameters; nothing else is supported."""
    host, body = request.app[HOST], await read_body(request, "api.CreateRequest")
    name = str(body.get("model") or body.get("name") or "")
    if not valid_name(name):
        raise Refused("invalid model name", 400)
    source = str(body.get("from") or "")
    if not source:
        return answer({"error": "neither 'from' or 'files' was specified"}, 400, V1_TYPE)
    manifest = host.tick().catalog.find(source)
    if manifest is None:  # the server tries to pull it
        return await _progress(request, body, [{"status": "pulling manifest"}, dict(NO_SUCH)])
    asked = read_options(body.get("parameters") or {}).get("num_ctx")
    fresh = make_manifest(
        manifest.speaks_as, manifest.size, manifest.embeds, asked or manifest.num_ctx
    )
    gap_s = host.server.config.copy_gap_s
    host.server.catalog.add(name, fresh, host.now(), gap_s)
    await asyncio.sleep(gap_s)
    steps = ("using existing layer", "writing manifest", "success")
    return await _progress(request, body, [{"status": s} for s in steps])


async def pull(request: web.Request) -> web.StreamResponse:
    """Pull a model: an installed one is up to date, unless a fault gives it new content (fact 23);
    any other does not exist.
    """
    host, body = request.app[HOST], await read_body(request, "api.PullRequest")
    name = str(body.get("model") or body.get("name") or "")
    if not valid_name(name):
        raise Refused("invalid model name", 400)
    server = host.tick()
    manifest = server.catalog.find(name)
    if manifest is None:
        return await _progress(request, body, [{"status": "pulling manifest"}, dict(NO_SUCH)])
    if server.faults.take("new_content", tag=name) is not None:
        server.catalog.repull(name, server.now)
        manifest = server.catalog.find(name) or manifest
    layer = f"pulling {manifest.blob[:12]}"
    done = {"digest": f"sha256:{manifest.blob}", "total": manifest.size}
    rows: list[Body] = [{"status": "pulling manifest"}, {"status": layer, **done}]
    rows.append({"status": layer, **done, "completed": manifest.size})
    steps_left = ("verifying sha256 digest", "writing manifest", "success")
    return await _progress(request, body, rows + [{"status": s} for s in steps_left])


async def push(request: web.Request) -> web.StreamResponse:
    """Refuse to push, as the registry does for everyone who is not signed in there."""
    host, body = request.app[HOST], await read_body(request, "api.PushRequest")
    name = str(body.get("model") or body.get("name") or "")
    if not name:
        raise Refused("model is required", 400)
    if host.tick().catalog.find(name) is None:
        return await _progress(request, body, [{"error": f"model '{name}' not found"}])
    rows: list[Body] = [{"status": "retrieving manifest"}, dict(NOT_SIGNED_IN)]
    return await _progress(request, body, rows)


async def find_blob(request: web.Request) -> web.Response:
    digest = _digest_of(request)
    status = 200 if digest in request.app[HOST].tick().catalog.blobs else 404
    return web.Response(status=status)


async def create_blob(request: web.Request) -> web.Response:
    digest, content = _digest_of(request), await request.read()
    blobs = request.app[HOST].tick().catalog.blobs
    if digest in blobs:
        return web.Response(status=200)
    found = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if found != digest:
        raise Refused(f'digest mismatch, expected "{digest}", got "{found}"', 400)
    blobs.add(digest)
    return web.Response(status=201)


def _digest_of(request: web.Request) -> str:
    found = _DIGEST.fullmatch(request.match_info["digest"])
    if found is None:
        raise Refused("invalid digest format", 400)
    return f"sha256:{found[1]}"


async def _progress(request: web.Request, body: Body, rows: list[Body]) -> web.StreamResponse:
    if body.get("stream") is False:
        return answer(rows[-1], 500 if "error" in rows[-1] else 200, "application/json")

    async def lines() -> AsyncIterator[bytes]:
        for row in rows:
            yield line(row)
            await asyncio.sleep(0)

    return await stream(request, lines(), "application/x-ndjson")
