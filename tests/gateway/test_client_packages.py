"""The packages openai and ollama against the whole product, with a simulated host."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ollama
import openai
import pytest

from tests.server.process import Process, python
from tests.simulated import SimulatedOllama

SEED = """
import django, sys
django.setup()
from django.core.management import call_command
from switcher.models import Host, ModelProfile
from switcher.records import config, keys
from switcher.records.keys import NewKey
from switcher.audit.ledger import SERVER
from switcher.switching.service import SwitchRequest, request_switch
from switcher.switching.worker import run_once
call_command("migrate", verbosity=0)
for name, tag in (("north-1", sys.argv[2]), ("embeds", sys.argv[3])):
    config.save_host(Host(name=name, base_url=sys.argv[1], vram_bytes=24 * 10**9), SERVER)
    row, _ = request_switch(SwitchRequest(model=tag, host=name), SERVER)
    assert run_once(row.pk)
print(keys.make_key(NewKey("tests", manage=True), SERVER)[1])
"""
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@dataclass(frozen=True, slots=True)
class Product:
    """A running server and clients of it; `clients` closes them."""

    address: str
    token: str
    clients: ExitStack

    def openai(self, token: str = "", host: str = "") -> openai.OpenAI:
        client = openai.OpenAI(
            base_url=f"{self.address}/v1",
            api_key=token or self.token,
            max_retries=0,
            default_headers={"X-Switchboard-Host": host},
        )
        return self.clients.enter_context(client)

    def ollama(self, token: str = "", host: str = "") -> ollama.Client:
        headers = {"Authorization": f"Bearer {token or self.token}", "X-Switchboard-Host": host}
        return self.clients.enter_context(ollama.Client(self.address, headers=headers))


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    data: Path = tmp_path_factory.mktemp("clients") / "data"
    data.mkdir(mode=0o700)
    models = ("mid-a=2GB", "embed=1GB,embed")
    with SimulatedOllama(*models, load_rate="50GB", tokens_per_s=500) as ollama:
        seeded = python("-c", SEED, ollama.url, "mid-a", "embed", data=data)
        assert seeded.returncode == 0, seeded.stderr
        with Process(data) as server, ExitStack() as clients:
            yield Product(server.address, seeded.stdout.split()[-1], clients)


HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


class TestOpenAI:
    def test_a_chat_whole_and_streamed(self, product: Product) -> None:
        client = product.openai()
        whole = client.chat.completions.create(model="gpt-4o", messages=HELLO, max_tokens=5)
        assert whole.choices[0].message.content
        assert whole.usage is not None
        assert whole.usage.completion_tokens > 0
        stream = client.chat.completions.create(
            model="gpt-4o", messages=HELLO, max_tokens=5, stream=True
        )
        chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks)
        assert chunks[-1].choices[0].finish_reason

    def test_token_counts_are_sent_if_asked_for(self, product: Product) -> None:
        stream = product.openai().chat.completions.create(
            model="x",
            messages=HELLO,
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
        assert list(stream)[-1].usage is not None

    def test_completions(self, product: Product) -> None:
        reply = product.openai().completions.create(model="x", prompt="Hello", max_tokens=5)
        assert reply.choices[0].text

    def test_responses_whole_and_streamed(self, product: Product) -> None:
        client = product.openai()
        reply = client.responses.create(model="x", input="Hello", max_output_tokens=5)
        assert reply.output_text
        events = list(client.responses.create(model="x", input="Hello", stream=True))
        assert events[-1].type == "response.completed"

    def test_embeddings(self, product: Product) -> None:
        client = product.openai(host="embeds")
        reply = client.embeddings.create(model="x", input=["one", "two"])
        assert [len(d.embedding) > 0 for d in reply.data] == [True, True]

    def test_a_tool_is_called(self, product: Product) -> None:
        text = "Use the tool: what is the weather in Paris?"
        weather: list[Any] = [{"role": "user", "content": text}]
        tools: Any = [TOOL]
        reply = product.openai().chat.completions.create(model="x", messages=weather, tools=tools)
        calls = reply.choices[0].message.tool_calls
        assert calls
        assert calls[0].type == "function"
        assert json.loads(calls[0].function.arguments) is not None

    def test_an_image_and_json_mode(self, product: Product) -> None:
        parts: Any = [
            {"type": "text", "text": "What is this? Answer in JSON."},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        ]
        reply = product.openai().chat.completions.create(
            model="x",
            messages=[{"role": "user", "content": parts}],
            response_format={"type": "json_object"},
        )
        assert json.loads(reply.choices[0].message.content or "") is not None

    def test_models(self, product: Product) -> None:
        client = product.openai()
        assert [m.id for m in client.models.list()] == ["mid-a"]
        assert client.models.retrieve("mid-a").id == "mid-a"

    def test_errors_are_raised_as_the_packages_own(self, product: Product) -> None:
        with pytest.raises(openai.AuthenticationError, match="unknown"):
            product.openai("sb-wrong").models.list()
        with pytest.raises(openai.NotFoundError, match="nowhere"):
            product.openai(host="nowhere").models.list()


class TestOllama:
    def test_a_chat_whole_and_streamed(self, product: Product) -> None:
        client = product.ollama()
        options = {"num_predict": 5}
        whole = client.chat("anything", HELLO, options=options)
        assert whole.message.content
        assert whole.done
        parts = list(client.chat("anything", HELLO, options=options, stream=True))
        assert parts[-1].done

    def test_generate_whole_and_streamed(self, product: Product) -> None:
        client = product.ollama()
        options = {"num_predict": 5}
        assert client.generate("anything", "Hello", options=options).response
        parts = list(client.generate("anything", "Hello", options=options, stream=True))
        assert parts[-1].done

    def test_embed(self, product: Product) -> None:
        reply = product.ollama(host="embeds").embed("anything", ["one", "two"])
        assert len(reply.embeddings) == 2

    def test_a_tool_is_called(self, product: Product) -> None:
        weather = [{"role": "user", "content": "Use the tool: what is the weather in Paris?"}]
        assert product.ollama().chat("x", weather, tools=[TOOL]).message.tool_calls

    def test_json_and_an_image(self, product: Product) -> None:
        asked = [{"role": "user", "content": "What is this?", "images": [PIXEL]}]
        reply = product.ollama().chat("x", asked, format="json")
        assert json.loads(reply.message.content or "") is not None

    def test_list_show_and_ps(self, product: Product) -> None:
        client = product.ollama()
        assert [m.model for m in client.list().models] == ["mid-a:latest"]
        assert client.show("anything").details is not None
        assert "mid-a:latest" in [m.model for m in client.ps().models]

    def test_a_pull_reports_its_progress(self, product: Product) -> None:
        states = [row.status for row in product.ollama().pull("mid-a", stream=True)]
        assert states[0] == "pulling manifest"
        assert states[-1] == "success"

    def test_changing_the_host_needs_a_key_with_the_scope(self, product: Product) -> None:
        client = product.ollama()
        client.copy("mid-a", "mine")
        client.delete("mine")
        with pytest.raises(ollama.ResponseError, match="unknown") as refused:
            product.ollama("sb-wrong").delete("mid-a")
        assert refused.value.status_code == 401
