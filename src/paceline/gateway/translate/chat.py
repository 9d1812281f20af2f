"""A request in OpenAI's dialect (`POST /v1/chat/completions`), as far as it can be translated.

Named as the API names things, so that the shapes read like its reference. What is declared `Any` is
looked at in `requests.py` only as to whether it says anything. Beyond the reference three words of
Anthropic's are known, as its own endpoint in this dialect and other gateways know them: `thinking`
and `top_k` of a request, and `cache_control` of parts and tools.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from paceline.gateway.translate.fields import Shape
from paceline.gateway.translate.messages import CacheControl, ThinkingConfig


class Breakpoint(Shape, frozen=True):
    mode: Literal["explicit"]
    ttl: Literal["30m", "12h"] | None = None


class Text(Shape, frozen=True, tag_field="type", tag="text"):
    text: str
    prompt_cache_breakpoint: Breakpoint | None = None
    cache_control: CacheControl | None = None


class ImageUrl(Shape, frozen=True):
    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class Image(Shape, frozen=True, tag_field="type", tag="image_url"):
    image_url: ImageUrl
    prompt_cache_breakpoint: Breakpoint | None = None
    cache_control: CacheControl | None = None


class FileData(Shape, frozen=True):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class File(Shape, frozen=True, tag_field="type", tag="file"):
    file: FileData
    prompt_cache_breakpoint: Breakpoint | None = None
    cache_control: CacheControl | None = None


class Refusal(Shape, frozen=True, tag_field="type", tag="refusal"):
    refusal: str


class Called(Shape, frozen=True):
    name: str
    arguments: str


class ToolCall(Shape, frozen=True):
    id: str
    type: Literal["function"]
    function: Called
    index: int | None = None
    """of a streamed answer, which some callers send back as it came"""


class System(Shape, frozen=True, tag_field="role", tag="system"):
    content: str | Sequence[Text]
    name: str | None = None


class Developer(Shape, frozen=True, tag_field="role", tag="developer"):
    content: str | Sequence[Text]
    name: str | None = None


class User(Shape, frozen=True, tag_field="role", tag="user"):
    content: str | Sequence[Text | Image | File]
    name: str | None = None


class Assistant(Shape, frozen=True, tag_field="role", tag="assistant"):
    """An answer sent back whole has every field of one, most of them null."""

    content: str | Sequence[Text | Refusal] | None = None
    refusal: str | None = None
    tool_calls: list[ToolCall] | None = None
    name: str | None = None
    audio: Any = None
    function_call: Any = None
    annotations: Any = None
    reasoning: Any = None
    reasoning_content: Any = None


class Tool(Shape, frozen=True, tag_field="role", tag="tool"):
    """The reference allows text alone; images are what several providers take besides."""

    content: str | Sequence[Text | Image]
    tool_call_id: str
    name: str | None = None


Message: TypeAlias = System | Developer | User | Assistant | Tool


class Function(Shape, frozen=True):
    name: str
    description: str | None = None
    parameters: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    strict: bool | None = None


class FunctionTool(Shape, frozen=True):
    type: Literal["function"]
    function: Function
    cache_control: CacheControl | None = None


class Named(Shape, frozen=True):
    name: str


class NamedChoice(Shape, frozen=True, tag_field="type", tag="function"):
    function: Named


class NamedTool(Shape, frozen=True):
    type: Literal["function"]
    function: Named


class Allowed(Shape, frozen=True):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedChoice(Shape, frozen=True, tag_field="type", tag="allowed_tools"):
    allowed_tools: Allowed


class Schema(Shape, frozen=True):
    name: str
    description: str | None = None
    schema: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    strict: bool | None = None


class Format(Shape, frozen=True):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None


class StreamOptions(Shape, frozen=True):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class Request(Shape, frozen=True):
    model: str
    messages: list[Message]
    audio: Any = None
    frequency_penalty: Any = None
    function_call: Any = None
    functions: Any = None
    logit_bias: Any = None
    logprobs: Any = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    metadata: Any = None
    modalities: Any = None
    moderation: Any = None
    n: Any = None
    parallel_tool_calls: bool | None = None
    prediction: Any = None
    presence_penalty: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = (
        None
    )
    response_format: Format | None = None
    safety_identifier: str | None = None
    seed: Any = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    stop: str | list[str] | None = None
    store: Any = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    thinking: ThinkingConfig | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | AllowedChoice | None = None
    tools: list[FunctionTool] | None = None
    top_k: int | None = None
    top_logprobs: Any = None
    top_p: float | None = None
    user: str | None = None
    verbosity: Any = None
    web_search_options: Any = None
