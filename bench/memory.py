"""Compares the memory that plans expect of models with what a real server reports.

    python bench/memory.py http://127.0.0.1:11434 MODEL… [--contexts 2048,8192,32768]

Each model is loaded with each context, and everything is unloaded first. `computed` is what a plan
says of a model that was never loaded there, `learned` what it says after one load with the first
context. The last line is JSON: the errors in percent.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import requests

from switcher.domain.memory import Loaded, ModelFacts, Size, expected_size, facts_of

TIMEOUT_S = 600


def ask(url: str, path: str, **body: Any) -> Any:
    response = requests.post(url + path, json=body, timeout=TIMEOUT_S)
    response.raise_for_status()
    return response.json()


def resident(url: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = requests.get(f"{url}/api/ps", timeout=30).json()["models"]
    return rows


def unload_all(url: str) -> None:
    until = time.monotonic() + 60
    while rows := resident(url):
        for row in rows:
            ask(url, "/api/generate", model=row["name"], prompt="", keep_alive=0)
        if time.monotonic() > until:
            raise SystemExit("a model stays loaded")
        time.sleep(0.1)


def load(url: str, model: str, context: int) -> tuple[Loaded, bool]:
    """Load a model alone; return what it takes, and whether it is on a GPU."""
    unload_all(url)
    options = {"num_ctx": context}
    ask(url, "/api/generate", model=model, prompt="", stream=False, options=options)
    (row,) = resident(url)
    return Loaded(row["context_length"], row["size"]), row["size_vram"] > 0


def describe(url: str, model: str) -> tuple[int, ModelFacts | None]:
    """Return the size of a model's file, and its facts."""
    info = ask(url, "/api/show", model=model, verbose=True)["model_info"]
    rows = requests.get(f"{url}/api/tags", timeout=30).json()["models"]
    size = next(row["size"] for row in rows if row["name"].removesuffix(":latest") == model)
    return size, facts_of(info)


def percent(expected: Size, seen: Loaded) -> float:
    return round(100 * (expected.bytes - seen.size) / seen.size, 1)


def measure(url: str, model: str, contexts: list[int]) -> list[dict[str, Any]]:
    """Return one row for each context that the model really gets."""
    file_bytes, facts = describe(url, model)
    rows, first = [], None
    for context in contexts:
        seen, on_gpu = load(url, model, context)
        if seen.context != context:
            continue  # it was trained for less
        computed = expected_size(context, file_bytes, facts, (), on_gpu)
        guessed = expected_size(context, file_bytes, None, (), on_gpu)
        row = {
            "model": model,
            "context": context,
            "size": seen.size,
            "computed": percent(computed, seen) if facts else None,
            "learned": percent(expected_size(context, file_bytes, facts, (first,)), seen)
            if first
            else None,
            "guessed": percent(guessed, seen),
        }
        first = first or seen
        rows.append(row)
        print(
            "{model:16} {context:7,} {size:14,} B  {computed}  {learned}  {guessed}".format(**row)
        )
    return rows


def errors(rows: list[dict[str, Any]], basis: str) -> dict[str, float] | None:
    found = [abs(row[basis]) for row in rows if row[basis] is not None]
    if not found:
        return None
    return {"median": round(statistics.median(found), 1), "worst": max(found), "n": len(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("url")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--contexts", default="2048,8192,32768")
    options = parser.parse_args()
    contexts = [int(text) for text in options.contexts.split(",")]
    url = options.url.rstrip("/")
    rows = [row for model in options.models for row in measure(url, model, contexts)]
    unload_all(url)
    version = requests.get(f"{url}/api/version", timeout=30).json()["version"]
    bases = {basis: errors(rows, basis) for basis in ("computed", "learned", "guessed")}
    print(json.dumps({"bench": "memory", "version": version, "percent": bases, "rows": rows}))


if __name__ == "__main__":
    main()
