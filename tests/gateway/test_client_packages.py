"""The packages openai, anthropic and ollama, and the command `ollama`, against the whole product
with a simulated host."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest

from tests.server.process import Process, python
from tests.simulated import SimulatedOllama
from tests.until import PATIENCE_S

# Not a package, so it is installed on some machines only.
COMMAND = os.environ.get("SWITCHER_OLLAMA_BINARY") or shutil.which("ollama") or ""

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
for name, url, tag in (("north-1", sys.argv[1], "mid-a"), ("embeds", sys.argv[2], "embed")):
    config.save_host(Host(name=name, base_url=url, vram_bytes=24 * 10**9), SERVER)
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
    """A running server with its data, and clients of it; `clients` closes them."""

    data: Path
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

    def anthropic(self, token: str = "", host: str = "") -> anthropic.Anthropic:
        client = anthropic.Anthropic(
            base_url=self.address,
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
    speed: dict[str, object] = {"load_rate": "4GB", "tokens_per_s": 500}
    with (
        SimulatedOllama("mid-a=2GB", "mid-b=2GB", **speed) as ollama,
        SimulatedOllama("embed=1GB,embed", **speed) as embeds,
    ):
        seeded = python("-c", SEED, ollama.url, embeds.url, data=data)
        assert seeded.returncode == 0, seeded.stderr
        with Process(data) as server, ExitStack() as clients:
            yield Product(data, server.address, seeded.stdout.split()[-1], clients)


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


CITY = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": TOOL["function"]["parameters"] | {"required": ["city"]},  # type: ignore[index]
}
ASKED: dict[str, Any] = {"model": "claude-sonnet-5", "max_tokens": 5, "messages": HELLO}


class TestAnthropic:
    def test_a_message_whole_and_streamed(self, product: Product) -> None:
        client = product.anthropic()
        whole = client.messages.create(**ASKED, system="Be brief.", stop_sequences=["X"])
        (block,) = whole.content
        assert block.type == "text"
        assert block.text.startswith("[mid-a]")
        assert (whole.model, whole.stop_reason) == ("mid-a", "max_tokens")
        assert whole.usage.output_tokens == 5
        assert whole._request_id
        with client.messages.stream(**ASKED) as stream:
            assert "".join(stream.text_stream).startswith("[mid-a]")
            message = stream.get_final_message()
        assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 5)
        assert message.usage.input_tokens > 0

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_tool_is_called_and_its_result_read(self, product: Product, stream: bool) -> None:
        client = product.anthropic()
        question = {"role": "user", "content": "Use the tool: what is the weather in Paris?"}
        asked: dict[str, Any] = ASKED | {"tools": [CITY], "messages": [question]}
        if stream:
            with client.messages.stream(**asked) as events:
                reply = events.get_final_message()
        else:
            reply = client.messages.create(**asked)
        assert reply.stop_reason == "tool_use"
        use = reply.content[-1]
        assert use.type == "tool_use"
        assert (use.name, use.input) == ("get_weather", {"city": "example"})
        result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
        asked["messages"] += [
            {"role": "assistant", "content": reply.content},
            {"role": "user", "content": [result]},
        ]
        assert client.messages.create(**asked).content[0].type == "text"

    def test_an_image_and_thinking_of_a_model_that_cannot_think(self, product: Product) -> None:
        source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
        content = [{"type": "text", "text": "What is this?"}, {"type": "image", "source": source}]
        asked: Any = ASKED | {
            "max_tokens": 1025,
            "messages": [{"role": "user", "content": content}],
        }
        raw = product.anthropic().messages.with_raw_response.create(
            **asked, thinking={"type": "enabled", "budget_tokens": 1024}
        )
        assert raw.headers["x-switchboard-dropped"] == "thinking.budget_tokens, thinking"
        assert raw.parse().content[0].type == "text"

    def test_models(self, product: Product) -> None:
        client = product.anthropic()
        assert [m.id for m in client.models.list()] == ["mid-a"]
        assert client.models.retrieve("mid-a").display_name == "mid-a"

    def test_tokens_are_counted(self, product: Product) -> None:
        client = product.anthropic()
        assert client.messages.count_tokens(model="claude-x", messages=HELLO).input_tokens > 0
        asked: dict[str, Any] = ASKED | {"messages": [{"role": "user", "content": "word " * 200}]}
        seen = client.messages.create(**asked).usage.input_tokens
        del asked["max_tokens"]
        assert client.messages.count_tokens(**asked).input_tokens == seen

    def test_errors_are_raised_as_the_packages_own(self, product: Product) -> None:
        with pytest.raises(anthropic.AuthenticationError, match="unknown"):
            product.anthropic("sb-wrong").messages.create(**ASKED)
        with pytest.raises(anthropic.NotFoundError, match="nowhere"):
            product.anthropic(host="nowhere").messages.create(**ASKED)
        with pytest.raises(anthropic.BadRequestError, match="does not support chat"):
            product.anthropic(host="embeds").messages.create(**ASKED)
        with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
            product.anthropic().messages.create(**ASKED | {"max_tokens": 0})


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


class TestTheCommand:
    """The command `ollama` itself: only a real one shows what it sends and understands."""

    pytestmark = pytest.mark.skipif(not COMMAND, reason="no command ollama; see CONTRIBUTING.md")

    @staticmethod
    def run(product: Product, *words: str, token: str = "") -> subprocess.CompletedProcess[str]:
        address = f"{product.address}/key/{token or product.token}"
        env = {"PATH": os.environ["PATH"], "HOME": str(product.data), "OLLAMA_HOST": address}
        return subprocess.run(
            [COMMAND, *words], env=env, text=True, capture_output=True, timeout=PATIENCE_S
        )

    @pytest.mark.parametrize(
        ("words", "shown"),
        [
            ("list", "mid-a:latest"),
            ("ps", "mid-a:latest"),
            ("show anything", "architecture"),
            ("run anything Hello", "[mid-a]"),
            ("--version", "ollama version is"),
        ],
    )
    def test_it_shows_and_asks_the_active_model(
        self, product: Product, words: str, shown: str
    ) -> None:
        done = self.run(product, *words.split())
        assert (done.returncode, shown in done.stdout) == (0, True), (done.stdout, done.stderr)

    def test_it_cannot_unload_the_model_of_all(self, product: Product) -> None:
        done = self.run(product, "stop", "mid-a")
        assert done.returncode != 0
        assert "manage.py unload" in done.stderr

    def test_a_wrong_key_gets_nothing(self, product: Product) -> None:
        done = self.run(product, "list", token="sb-wrong")
        assert done.returncode != 0
        assert "mid-a" not in done.stdout


def asked_by_openai(product: Product) -> list[str]:
    create = product.openai().chat.completions.create
    whole = create(model="gpt-4o", messages=HELLO, max_tokens=5)
    parts = create(model="gpt-4o", messages=HELLO, max_tokens=5, stream=True)
    streamed = "".join(part.choices[0].delta.content or "" for part in parts)
    return [whole.choices[0].message.content or "", streamed]


def asked_by_anthropic(product: Product) -> list[str]:
    messages = product.anthropic().messages
    (block,) = messages.create(**ASKED).content
    assert block.type == "text"
    with messages.stream(**ASKED) as stream:
        return [block.text, "".join(stream.text_stream)]


def asked_by_ollama(product: Product) -> list[str]:
    client, options = product.ollama(), {"num_predict": 5}
    whole = client.chat("anything", HELLO, options=options)
    parts = client.chat("anything", HELLO, options=options, stream=True)
    return [whole.message.content or "", "".join(part.message.content or "" for part in parts)]


def asked_by_the_command(product: Product) -> list[str]:
    done = TestTheCommand.run(product, "run", "anything", "Hello")
    assert done.returncode == 0, done.stderr
    return [done.stdout]


@pytest.mark.parametrize(
    "ask",
    [
        asked_by_openai,
        asked_by_anthropic,
        asked_by_ollama,
        pytest.param(asked_by_the_command, marks=TestTheCommand.pytestmark),
    ],
)
def test_no_message_is_lost_in_a_switch(
    product: Product, ask: Callable[[Product], list[str]]
) -> None:
    """Each client asks all the time while the model is swapped there and back."""
    for _ in range(2):
        old = _models(ask(product))[0]
        target = {"mid-a": "mid-b", "mid-b": "mid-a"}[old]
        switch = ("manage.py", "switch", target, "--strategy", "swap", "--host", "north-1")
        with ThreadPoolExecutor(1) as pool:
            switched = pool.submit(python, *switch, data=product.data)
            models = _models(ask(product))
            while not switched.done() or models[-1] != target:
                models += _models(ask(product))
        assert switched.result().returncode == 0, switched.result().stdout
        at = models.index(target)
        assert at > 0
        assert set(models[:at]) == {old}
        assert set(models[at:]) == {target}


def _models(texts: list[str]) -> list[str]:
    """Return which models answered: each begins its text with its name."""
    return [text[1 : text.index("]")] for text in texts]
