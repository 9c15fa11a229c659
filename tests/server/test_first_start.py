"""The address of Ollama at the first start, and settings that stop it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from project.first_start import ollama_address
from switcher.domain.errors import BadRequest
from tests.server.process import ROOT, environment
from tests.until import PATIENCE_S


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", "http://127.0.0.1:11434"),
        ('"0.0.0.0"', "http://127.0.0.1:11434"),
        (" '0.0.0.0:8080' ", "http://127.0.0.1:8080"),
        ("1.2.3.4", "http://1.2.3.4:11434"),
        (":8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("::", "http://[::1]:11434"),
        ("http://gpu1", "http://gpu1"),
        ("http://gpu1:11434", "http://gpu1:11434"),
        ("https://gpu1", "https://gpu1"),
        ("https://x/ollama", "https://x/ollama"),
        ("https://x:8443/ollama/", "https://x:8443/ollama"),
        ("gpu1", "http://gpu1:11434"),
        ("gpu1/", "http://gpu1:11434"),
        ("gpu1:99999", "http://gpu1:11434"),
        ("http://gpu1:none", "http://gpu1"),
        ("ollama.com", "https://ollama.com"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(text: str, address: str) -> None:
    assert ollama_address(text) == address


@pytest.mark.parametrize("text", ["ftp://gpu1", "http://gpu 1", "169.254.169.254", "user@gpu1"])
def test_what_cannot_be_a_host_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        ollama_address(text)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OLLAMA_HOST", "ftp://gpu1", "OLLAMA_HOST: Write an address such as"),
        ("SWITCHER_HTTPS", "perhaps", "SWITCHER_HTTPS: Input should be a valid boolean"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_sentence(
    name: str, value: str, said: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "start", "--port", "0"],
        env={**environment(tmp_path), name: value},
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"Not started: {said}")
    assert done.stderr.count("\n") == 1
