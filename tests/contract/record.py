"""Records exchanges with a server, and reads such recordings.

    python -m tests.contract.record http://127.0.0.1:11434 tiny-a tiny-b

writes `tests/contract/recordings/*.json` anew from that server, with two small models of it. Each
file is a list of exchanges, in order: a label, the time since the first in seconds, the request,
and the response with its duration. The models are called `small-a` and `small-b` in them.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import requests

FOLDER = Path(__file__).parent / "recordings"
NAME, COPY = "contract-active", "contract-copy"
Step = tuple[str, str, str, Any]


def _generate(label: str, model: str, **more: Any) -> Step:
    options = {"num_predict": 2, "seed": 1}
    body = {"model": model, "prompt": "Hello", "stream": False, "options": options, **more}
    return label, "POST", "/api/generate", body


def _unload(model: str) -> Step:
    body = {"model": model, "prompt": "", "keep_alive": 0, "stream": False}
    return f"unload {model}", "POST", "/api/generate", body


def scenarios(a: str, b: str) -> dict[str, list[Step]]:
    """Return the steps of each recording."""
    ps: Step = ("ps", "GET", "/api/ps", None)
    copy = ("make NAME", "POST", "/api/copy", {"source": a, "destination": NAME})
    keep = ("make its copy", "POST", "/api/copy", {"source": NAME, "destination": COPY})
    over = ("copy over NAME", "POST", "/api/copy", {"source": b, "destination": NAME})
    delete = ("delete NAME", "DELETE", "/api/delete", {"model": NAME})
    remove = ("delete its copy", "DELETE", "/api/delete", {"model": COPY})
    ask, by_copy = _generate("ask NAME", NAME), _generate("ask its copy", COPY)
    create = {"model": NAME, "from": a, "system": "You are a pirate.", "stream": False}
    return {
        "copied_over_while_loaded": [
            *(copy, keep, ask, ps, over, by_copy, ps, ask, ps),
            *(_unload(COPY), _unload(NAME), delete, remove),
        ],
        "deleted_while_loaded_with_copy": [
            *(copy, keep, ask, delete, ask, by_copy, ps, _unload(COPY), remove),
        ],
        "created_from_another": [
            *(("create NAME", "POST", "/api/create", create), _generate("ask the first", a)),
            *(ps, ask, ps, _unload(NAME), delete),
        ],
    }


def run(url: str, steps: list[Step]) -> list[dict[str, Any]]:
    """Make the requests, and return the exchanges."""
    began, rows = time.monotonic(), []
    for label, method, path, body in steps:
        at = time.monotonic()
        answer = requests.request(method, url + path, json=body, timeout=60)
        text = answer.text
        response: dict[str, Any] = {
            "status": answer.status_code,
            "content_type": answer.headers.get("Content-Type"),
            "transfer_encoding": answer.headers.get("Transfer-Encoding"),
        }
        response |= {"json": json.loads(text)} if text.startswith("{") else {"lines": text}
        rows.append(
            {
                "label": label,
                "at_s": round(at - began, 3),
                "request": {"method": method, "path": path, "body": body},
                "response": response,
                "seconds": round(time.monotonic() - at, 4),
            }
        )
        if label.startswith("unload"):
            time.sleep(0.5)  # the answer comes before the unload (fact 1)
    return rows


def main() -> None:
    url, a, b = sys.argv[1].rstrip("/"), *sys.argv[2:4]
    for model in (a, b):
        requests.post(f"{url}/api/generate", json=_unload(model)[3], timeout=60)
    version = requests.get(f"{url}/api/version", timeout=10).json()["version"]
    for name, steps in scenarios(a, b).items():
        text = json.dumps({"version": version, "exchanges": run(url, steps)}, indent=1)
        for model, neutral in ((a, "small-a"), (b, "small-b")):
            text = text.replace(f'"{model}"', f'"{neutral}"').replace(f"{model}:", f"{neutral}:")
        (FOLDER / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
