"""What the vendors' documentation says of requests and their types do not: bounds, and what must
go with what. The source of each rule is the API reference of its vendor, and the descriptions of
the parameters in its SDK; what only some models want is not here.

Called by `llm_upstream.py` with requests that have the right types (`llm_types.py`).
"""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any

from paceline.testing.llm_types import Vendor

OPENAI_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
ANTHROPIC_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
DATA_URL = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,(.*)", re.DOTALL)

SAYING = ("content", "refusal", "function_call", "audio")

Fields = dict[str, Any]


def broken_rules(vendor: Vendor, endpoint: str, asked: Fields) -> list[str]:
    rules = RULES.get((vendor, endpoint))
    return [] if rules is None else list(rules(asked))


# --- OpenAI ---------------------------------------------------------------------------------------


def _chat(asked: Fields) -> Iterator[str]:
    yield from _sampling(asked)
    messages = asked["messages"]
    if not messages:
        yield "messages: there must be at least one"
    if asked.get("stream_options") is not None and not asked.get("stream"):
        yield "stream_options: only with stream"
    if asked.get("max_tokens") is not None and asked.get("max_completion_tokens") is not None:
        yield "max_tokens: not together with max_completion_tokens"
    for name in ("max_tokens", "max_completion_tokens"):
        if asked.get(name) is not None and asked[name] < 1:
            yield f"{name}: at least 1"
    if asked.get("n") is not None and not 1 <= asked["n"] <= 128:
        yield "n: from 1 to 128"
    if asked.get("top_logprobs") is not None:
        if not asked.get("logprobs"):
            yield "top_logprobs: only with logprobs"
        if not 0 <= asked["top_logprobs"] <= 20:
            yield "top_logprobs: from 0 to 20"
    stop = asked.get("stop")
    if isinstance(stop, list) and not 1 <= len(stop) <= 4:
        yield "stop: from 1 to 4 sequences"
    yield from _metadata(asked)
    yield from _chat_tools(asked)
    yield from _chat_turns(messages)
    form = asked.get("response_format")
    if form and form["type"] == "json_schema":
        if not OPENAI_NAME.fullmatch(form["json_schema"]["name"]):
            yield "response_format.json_schema.name: letters, digits, _ and -, at most 64"
        if form["json_schema"].get("strict"):
            yield from _strict_schema(form["json_schema"].get("schema", {}), "response_format")


def _sampling(asked: Fields) -> Iterator[str]:
    for name, low, high in (
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("presence_penalty", -2, 2),
        ("frequency_penalty", -2, 2),
    ):
        if asked.get(name) is not None and not low <= asked[name] <= high:
            yield f"{name}: from {low} to {high}"


def _metadata(asked: Fields) -> Iterator[str]:
    metadata = asked.get("metadata") or {}
    if len(metadata) > 16:
        yield "metadata: at most 16 pairs"
    for key, value in metadata.items():
        if len(key) > 64 or len(value) > 512:
            yield f"metadata.{key[:64]}: keys up to 64 characters, values up to 512"


def _chat_tools(asked: Fields) -> Iterator[str]:
    tools = asked.get("tools")
    if tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if asked.get(name) is not None:
                yield f"{name}: only with tools"
        return
    if not 1 <= len(tools) <= 128:
        yield "tools: from 1 to 128"
    names = [tool[tool["type"]]["name"] for tool in tools]
    for name in names:
        if not OPENAI_NAME.fullmatch(name):
            yield f"tools: the name {name[:80]!r} has other characters than letters, digits, _, -"
    choice = asked.get("tool_choice")
    if isinstance(choice, dict) and choice["type"] in choice:
        wanted = choice[choice["type"]].get("name")
        if wanted is not None and wanted not in names:
            yield f"tool_choice: no tool is called {wanted[:80]!r}"
    for tool in tools:
        if tool["type"] == "function" and tool["function"].get("strict"):
            schema = tool["function"].get("parameters", {})
            yield from _strict_schema(schema, f"tools.{tool['function']['name'][:80]}")


def _strict_schema(schema: Any, place: str) -> Iterator[str]:
    """Structured outputs: every object is closed, and has all its properties."""
    if not isinstance(schema, dict):
        return
    if schema.get("type") == "object" or "properties" in schema:
        if schema.get("additionalProperties") is not False:
            yield f"{place}: strict, so additionalProperties must be false"
        properties = schema.get("properties", {})
        if set(schema.get("required", ())) != set(properties):
            yield f"{place}: strict, so all properties must be required"
        for name, inner in properties.items():
            yield from _strict_schema(inner, f"{place}.{name}")
    for key in ("items", "anyOf", "$defs", "allOf"):
        inner = schema.get(key)
        if isinstance(inner, list):
            for each in inner:
                yield from _strict_schema(each, f"{place}.{key}")
        elif key == "$defs" and isinstance(inner, dict):
            for name, each in inner.items():
                yield from _strict_schema(each, f"{place}.{key}.{name}")
        elif inner is not None:
            yield from _strict_schema(inner, f"{place}.{key}")


def _chat_turns(messages: list[Fields]) -> Iterator[str]:
    """Every call of a tool is answered before anything else is said, and nothing else is."""
    open_calls: set[str] = set()
    for at, message in enumerate(messages):
        if message["role"] == "tool":
            if message["tool_call_id"] not in open_calls:
                yield f"messages.{at}: answers the call {message['tool_call_id']!r}, which is none"
            open_calls.discard(message["tool_call_id"])
            continue
        if open_calls:
            yield f"messages.{at}: comes before the calls {sorted(open_calls)} are answered"
            open_calls = set()
        if message["role"] == "assistant":
            calls = message.get("tool_calls") or []
            open_calls = {call["id"] for call in calls}
            if not calls and all(message.get(key) is None for key in SAYING):
                yield f"messages.{at}: says nothing and calls nothing"
            if message.get("tool_calls") == []:
                yield f"messages.{at}.tool_calls: none is not the same as an empty list"
        yield from _images(message.get("content"), f"messages.{at}")
    if open_calls:
        yield f"messages: the calls {sorted(open_calls)} are never answered"


def _images(content: Any, place: str) -> Iterator[str]:
    for part in content if isinstance(content, list) else ():
        if part["type"] == "image_url":
            yield from _image_url(part["image_url"]["url"], place)
        elif part["type"] == "input_image" and part.get("image_url"):
            yield from _image_url(part["image_url"], place)


def _image_url(url: str, place: str) -> Iterator[str]:
    data = DATA_URL.fullmatch(url)
    if data is None:
        if not url.startswith(("https://", "http://")):
            yield f"{place}: {url[:60]!r} is neither an address nor an image in base64"
    elif not _is_base64(data[1]):
        yield f"{place}: the image is no base64"


def _is_base64(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) > 0
    except binascii.Error:
        return False


def _completions(asked: Fields) -> Iterator[str]:
    yield from _sampling(asked)
    if asked.get("stream_options") is not None and not asked.get("stream"):
        yield "stream_options: only with stream"
    if asked.get("logprobs") is not None and not 0 <= asked["logprobs"] <= 5:
        yield "logprobs: from 0 to 5"


def _embeddings(asked: Fields) -> Iterator[str]:
    given = asked["input"]
    if not given or (isinstance(given, list) and "" in given):
        yield "input: must not be empty"
    if isinstance(given, list) and len(given) > 2048:
        yield "input: at most 2048 texts"
    if asked.get("dimensions") is not None and asked["dimensions"] < 1:
        yield "dimensions: at least 1"


def _responses(asked: Fields) -> Iterator[str]:
    yield from _sampling(asked)
    yield from _metadata(asked)
    if asked.get("model") is None:
        yield "model: is missing"
    if asked.get("input") is None and asked.get("prompt") is None:
        yield "input: is missing"
    if asked.get("max_output_tokens") is not None and asked["max_output_tokens"] < 16:
        yield "max_output_tokens: at least 16"
    if asked.get("stream_options") is not None and not asked.get("stream"):
        yield "stream_options: only with stream"
    open_calls: set[str] = set()
    items = asked.get("input")
    for at, item in enumerate(items if isinstance(items, list) else ()):
        if item.get("type") == "function_call":
            open_calls.add(item["call_id"])
        elif item.get("type") == "function_call_output":
            if item["call_id"] not in open_calls and not asked.get("previous_response_id"):
                yield f"input.{at}: answers the call {item['call_id']!r}, which is none"
            open_calls.discard(item["call_id"])
        yield from _images(item.get("content"), f"input.{at}")
    if open_calls:
        yield f"input: the calls {sorted(open_calls)} are never answered"


# --- Anthropic ------------------------------------------------------------------------------------


def _messages(asked: Fields) -> Iterator[str]:
    if asked["max_tokens"] < 1:
        yield "max_tokens: at least 1"
    thinking = asked.get("thinking")
    budget = thinking.get("budget_tokens") if thinking else None
    if budget is not None and not 1024 <= budget < asked["max_tokens"]:
        yield "thinking.budget_tokens: at least 1024, and less than max_tokens"
    for stop in asked.get("stop_sequences", ()):
        if not stop.strip():
            yield "stop_sequences: each must have more than white space"
    yield from _count_tokens(asked)


def _count_tokens(asked: Fields) -> Iterator[str]:
    messages = asked["messages"]
    if not messages:
        yield "messages: there must be at least one"
        return
    if messages[0]["role"] != "user":
        yield "messages.0: the first is the user's"
    tools = asked.get("tools")
    names = [tool.get("name") for tool in tools or ()]
    for tool in tools or ():
        if "input_schema" in tool:
            if tool["input_schema"].get("type") != "object":
                yield f"tools.{tool['name'][:80]}.input_schema.type: must be object"
            if not ANTHROPIC_NAME.fullmatch(tool["name"]):
                yield f"tools: the name {tool['name'][:80]!r} has other characters"
    choice = asked.get("tool_choice")
    if choice is not None and not tools:
        yield "tool_choice: only with tools"
    if choice and choice["type"] == "tool" and choice["name"] not in names:
        yield f"tool_choice: no tool is called {choice['name'][:80]!r}"
    for at, block in enumerate(_blocks(asked.get("system"))):
        if not block["text"].strip():
            yield f"system.{at}: a text must not be empty"
    yield from _turns(messages)


def _turns(messages: list[Fields]) -> Iterator[str]:
    """Every use of a tool is answered by a result at the beginning of the next message."""
    open_uses: set[str] = set()
    for at, message in enumerate(messages):
        content = message["content"]
        last = at == len(messages) - 1
        if not content and not (last and message["role"] == "assistant"):
            yield f"messages.{at}: has no content"
        blocks = _blocks(content)
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        for each in results:
            if each not in open_uses:
                yield f"messages.{at}: the result of {each!r}, which is no use of the one before"
        if open_uses - set(results):
            yield f"messages.{at}: without the results of {sorted(open_uses - set(results))}"
        kinds = [block["type"] for block in blocks]
        if kinds[: len(results)] != ["tool_result"] * len(results):
            yield f"messages.{at}: results of tools come first"
        open_uses = {block["id"] for block in blocks if block["type"] == "tool_use"}
        if open_uses and message["role"] != "assistant":
            yield f"messages.{at}: only the assistant uses tools"
        for block in blocks:
            yield from _block(block, f"messages.{at}")
        if last and message["role"] == "assistant":
            text = content if isinstance(content, str) else (blocks[-1].get("text") or "x")
            if text != text.rstrip():
                yield f"messages.{at}: the last one, of the assistant, ends with white space"
    if open_uses:
        yield f"messages: without the results of {sorted(open_uses)}"


def _block(block: Fields, place: str) -> Iterator[str]:
    if block["type"] == "text" and not block["text"].strip():
        yield f"{place}: a text must not be empty"
    source = block["source"] if block["type"] == "image" else {}
    if not _is_base64(source.get("data", "eA==")):
        yield f"{place}: the image is no base64"
    if "://" not in source.get("url", "://"):
        yield f"{place}: {source['url'][:60]!r} is no address"


def _blocks(content: Any) -> list[Fields]:
    return content if isinstance(content, list) else []


RULES = {
    ("openai", "chat"): _chat,
    ("openai", "completions"): _completions,
    ("openai", "embeddings"): _embeddings,
    ("openai", "responses"): _responses,
    ("anthropic", "messages"): _messages,
    ("anthropic", "count_tokens"): _count_tokens,
}
