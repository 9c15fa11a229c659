"""Calls of clients that people use, for the Python of `script/clients`, which has their packages.

    calls.py NAME ADDRESS KEY

makes one client's calls and prints what came back, as JSON, once and again for each line of its
standard input. It imports nothing of Switchboard's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

MESSAGES = [{"role": "user", "content": "Hi"}]
CALLS: dict[str, Callable[[str, str], list[Any]]] = {}


def call(function: Callable[[str, str], list[Any]]) -> Callable[[str, str], list[Any]]:
    """Register a function under its name. It returns texts and vectors, none of them empty."""
    CALLS[function.__name__] = function
    return function


@call
def openai(address: str, key: str) -> list[Any]:
    from openai import OpenAI

    client = OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)
    ask: Any = client.chat.completions.create
    whole = ask(model="gpt-4o", messages=MESSAGES, max_tokens=5)
    stream = ask(model="gpt-4o", messages=MESSAGES, max_tokens=5, stream=True)
    said = client.responses.create(model="gpt-4o", input="Hi", max_output_tokens=5)
    vector = client.embeddings.create(model="text-embedding-3-small", input="x").data[0].embedding
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    return [whole.choices[0].message.content, text, said.output_text, vector[:2]]


@call
def ollama(address: str, key: str) -> list[Any]:
    from ollama import Client

    client = Client(address, headers={"Authorization": f"Bearer {key}"})
    options = {"num_predict": 5, "num_ctx": 4096}
    whole = client.chat("any", MESSAGES, options=options, keep_alive="1m")
    stream = client.chat("any", MESSAGES, options=options, stream=True)
    names = [row.model for row in client.list().models]
    text = "".join(part.message.content or "" for part in stream)
    return [whole.message.content, text, names, list(client.embed("any", "x").embeddings[0][:2])]


@call
def anthropic(address: str, key: str) -> list[Any]:
    from anthropic import Anthropic

    client = Anthropic(base_url=address, api_key=key, max_retries=0)
    asked: Any = {"model": "claude-sonnet-4-5", "max_tokens": 5, "messages": MESSAGES}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        text = stream.get_final_text()
    return [whole.content[0].text, text]


@call
def langchain_openai(address: str, key: str) -> list[Any]:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    where: Any = {"base_url": f"{address}/v1", "api_key": key, "max_retries": 0}
    model = ChatOpenAI(model="gpt-4o", max_tokens=5, **where)
    # Without this, it sends lists of tokens, which Ollama's /v1/embeddings does not take.
    vectors = OpenAIEmbeddings(model="any", check_embedding_ctx_length=False, **where)
    text = "".join(str(part.content) for part in model.stream("Hi"))
    return [model.invoke("Hi").content, text, vectors.embed_query("x")[:2]]


@call
def langchain_ollama(address: str, key: str) -> list[Any]:
    from langchain_ollama import ChatOllama, OllamaEmbeddings

    headers = {"headers": {"Authorization": f"Bearer {key}"}}
    where: Any = {"base_url": address, "model": "any", "client_kwargs": headers}
    model = ChatOllama(num_predict=5, num_ctx=4096, keep_alive="1m", **where)
    text = "".join(str(part.content) for part in model.stream("Hi"))
    return [model.invoke("Hi").content, text, OllamaEmbeddings(**where).embed_query("x")[:2]]


@call
def llama_index_openai(address: str, key: str) -> list[Any]:
    from llama_index.llms.openai_like import OpenAILike

    where: Any = {"api_base": f"{address}/v1", "api_key": key, "max_retries": 0}
    model = OpenAILike(model="gpt-4o", is_chat_model=True, max_tokens=5, **where)
    text = "".join(part.delta or "" for part in model.stream_complete("Hi"))
    return [model.complete("Hi").text, text]


@call
def llama_index_ollama(address: str, key: str) -> list[Any]:
    from llama_index.embeddings.ollama import OllamaEmbedding
    from llama_index.llms.ollama import Ollama

    headers = {"Authorization": f"Bearer {key}"}
    options = {"num_predict": 5}
    model = Ollama(base_url=address, model="any", headers=headers, additional_kwargs=options)
    vectors = OllamaEmbedding(
        model_name="any", base_url=address, client_kwargs={"headers": headers}
    )
    text = "".join(part.delta or "" for part in model.stream_complete("Hi"))
    return [model.complete("Hi").text, text, vectors.get_text_embedding("x")[:2]]


def _litellm(model: str, address: str, key: str) -> list[Any]:
    import litellm

    asked: Any = {"model": model, "api_base": address, "api_key": key, "num_retries": 0}
    asked |= {"messages": MESSAGES, "max_tokens": 5}
    stream = litellm.completion(stream=True, **asked)
    text = "".join(part.choices[0].delta.content or "" for part in stream)
    return [litellm.completion(**asked).choices[0].message.content, text]


@call
def litellm_openai(address: str, key: str) -> list[Any]:
    return _litellm("openai/gpt-4o", f"{address}/v1", key)


@call
def litellm_ollama(address: str, key: str) -> list[Any]:
    return _litellm("ollama_chat/any", address, key) + _litellm("ollama/any", address, key)


@call
def litellm_anthropic(address: str, key: str) -> list[Any]:
    return _litellm("anthropic/claude-sonnet-4-5", address, key)


if __name__ == "__main__":
    name, address, key = sys.argv[1:]
    print(json.dumps(CALLS[name](address, key)), flush=True)
    for _ in sys.stdin:
        print(json.dumps(CALLS[name](address, key)), flush=True)
