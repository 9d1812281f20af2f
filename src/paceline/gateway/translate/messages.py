"""A request in Anthropic's dialect (`POST /v1/messages`), as far as it can be translated.

Named as the API names things, so that the shapes read like its reference. What is declared `Any` is
looked at in `requests.py` and `turns.py` only as to whether it says anything. `temperature`,
`top_k` and `top_p` are no longer in the reference of 2026, for its newest models do not take them;
the API does, for the others.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from paceline.gateway.translate.fields import Shape


class CacheControl(Shape, frozen=True):
    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class Text(Shape, frozen=True, tag_field="type", tag="text"):
    text: str
    cache_control: CacheControl | None = None
    citations: Any = None


class Encoded(Shape, frozen=True, tag_field="type", tag="base64"):
    media_type: str
    data: str


class Url(Shape, frozen=True, tag_field="type", tag="url"):
    url: str


class Image(Shape, frozen=True, tag_field="type", tag="image"):
    source: Encoded | Url
    cache_control: CacheControl | None = None
    transformations: Any = None


class Document(Shape, frozen=True, tag_field="type", tag="document"):
    source: Encoded
    cache_control: CacheControl | None = None
    citations: Any = None
    context: Any = None
    title: str | None = None


class Thinking(Shape, frozen=True, tag_field="type", tag="thinking"):
    thinking: str
    signature: str


class RedactedThinking(Shape, frozen=True, tag_field="type", tag="redacted_thinking"):
    data: str


class ToolUse(Shape, frozen=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: msgspec.Raw
    cache_control: CacheControl | None = None
    caller: Any = None
    toolset_name: Any = None


class ToolResult(Shape, frozen=True, tag_field="type", tag="tool_result"):
    tool_use_id: str
    content: str | Sequence[Text | Image] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None
    toolset_name: Any = None


Block: TypeAlias = Text | Image | Document | Thinking | RedactedThinking | ToolUse | ToolResult

Role = Literal["user", "assistant", "system"]


class Message(Shape, frozen=True):
    role: Role
    content: str | Sequence[Block]


class Tool(Shape, frozen=True):
    name: str
    input_schema: msgspec.Raw
    description: str | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    type: Literal["custom"] | None = None
    allowed_callers: Any = None
    defer_loading: Any = None
    eager_input_streaming: Any = None
    input_examples: Any = None


class AutoChoice(Shape, frozen=True, tag_field="type", tag="auto"):
    disable_parallel_tool_use: bool | None = None


class AnyChoice(Shape, frozen=True, tag_field="type", tag="any"):
    disable_parallel_tool_use: bool | None = None


class ToolChoice(Shape, frozen=True, tag_field="type", tag="tool"):
    name: str
    disable_parallel_tool_use: bool | None = None


class NoChoice(Shape, frozen=True, tag_field="type", tag="none"):
    pass


Choice: TypeAlias = AutoChoice | AnyChoice | ToolChoice | NoChoice


class Format(Shape, frozen=True):
    type: Literal["json_schema"]
    schema: msgspec.Raw


class OutputConfig(Shape, frozen=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: Format | None = None


class Metadata(Shape, frozen=True):
    user_id: str | None = None


Display = Literal["summarized", "omitted"]


class Adaptive(Shape, frozen=True, tag_field="type", tag="adaptive"):
    display: Display | None = None


class BetweenTools(Shape, frozen=True, tag_field="type", tag="between_tools"):
    pass


class Disabled(Shape, frozen=True, tag_field="type", tag="disabled"):
    pass


class Enabled(Shape, frozen=True, tag_field="type", tag="enabled"):
    budget_tokens: int
    display: Display | None = None


ThinkingConfig: TypeAlias = Adaptive | BetweenTools | Disabled | Enabled


class Request(Shape, frozen=True):
    model: str
    max_tokens: int
    messages: list[Message]
    cache_control: Any = None
    container: Any = None
    diagnostics: Any = None
    inference_geo: Any = None
    metadata: Metadata | None = None
    output_config: OutputConfig | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    speed: Any = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    system: str | list[Text] | None = None
    temperature: float | None = None
    thinking: ThinkingConfig | None = None
    tool_choice: Choice | None = None
    tools: list[Tool] | None = None
    top_k: int | None = None
    top_p: float | None = None
    user_profile_id: Any = None
