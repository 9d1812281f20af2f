"""Requests from OpenAI's dialect into Anthropic's and back.

What the other dialect has no word for is refused, with the field's name; nothing that could change
the answer is dropped. What is dropped stands in DROPPED, and what is said of it there is all there
is to lose. A field that is null is one that is left out. A temperature above 1, which Anthropic
does not have, is refused too: at 1 the caller would get other answers than asked for, and not know.

`max_tokens` is Anthropic's own; where a caller of OpenAI's dialect names no bound it is
MESSAGES_ANSWER_TOKENS, and an answer that reaches it ends with `length`.

Reasoning: OpenAI's models always think as they see fit, and `reasoning_effort` says how hard. That
is Anthropic's `thinking` of type `adaptive` with `output_config.effort`; `none` is its `disabled`.
A budget of tokens to think with has no counterpart.

Pure: bytes in, bytes out; a long body may be given to another process. Called by `asking.py`; what
was said so far is in `turns.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from paceline.gateway.call import Dialect
from paceline.gateway.translate import chat, messages, turns
from paceline.gateway.translate.fields import (
    Neutral,
    check_neutral,
    decoded,
    is_object,
    not_said,
)
from paceline.gateway.upstream import TokensField
from paceline.terms.errors import BadField
from paceline.terms.limits import MESSAGES_ANSWER_TOKENS

DROPPED: Mapping[Dialect, Mapping[str, str]] = {
    "openai": {
        "metadata": "labels under which OpenAI files an answer that it keeps",
        "prediction": "makes an answer faster, and no different",
        "prompt_cache_key": "what is found in OpenAI's cache; costs, no difference in the answer",
        "prompt_cache_options": "the same",
        "prompt_cache_retention": "the same",
        "stream_options": "`include_usage` is the gateway's to obey; obfuscation is padding",
        "response_format.json_schema.name": "a label; Anthropic's formats have none",
        "response_format.json_schema.strict": "Anthropic always keeps to the schema",
        "messages[].content[].image_url.detail": "but for `low`, which is refused: Anthropic looks"
        " at all there is",
        "messages[].tool_calls[].index": "the order has it",
        "user": "where `safety_identifier`, which is to replace it, names the user as well",
    },
    "anthropic": {
        "cache_control": "costs, no difference in the answer; kept on texts, images and documents"
        " for providers that know `prompt_cache_breakpoint`",
        "tools[].cache_control": "the same; OpenAI has no mark for tools, calls and results",
        "tools[].eager_input_streaming": "in which pieces a call's input comes",
        "thinking.display": "whether an answer shows what was thought: as the provider does it",
    },
}
"""Of each dialect, the fields that are left out, and why nothing is lost in the answer. What is
left out of messages is told in `turns.py`."""

CHAT: Mapping[str, Neutral] = {
    "audio": Neutral(()),
    "frequency_penalty": Neutral((0,)),
    "function_call": Neutral((), "Use `tool_choice`."),
    "functions": Neutral(([],), "Use `tools`."),
    "logit_bias": Neutral(({},)),
    "logprobs": Neutral((False,)),
    "modalities": Neutral((["text"],)),
    "moderation": Neutral(()),
    "n": Neutral((1,), "Ask several times."),
    "presence_penalty": Neutral((0,)),
    "seed": Neutral((), "Leave it out: this provider's answers differ from call to call."),
    "store": Neutral((False,), "Keep the answer where you are; this provider keeps none."),
    "top_logprobs": Neutral((0,)),
    "verbosity": Neutral(("medium",), "Say in the system prompt how long answers should be."),
    "web_search_options": Neutral(()),
}
"""Fields of OpenAI's that Anthropic has no word for."""

MESSAGES: Mapping[str, Neutral] = {
    "container": Neutral(()),
    "diagnostics": Neutral(()),
    "inference_geo": Neutral(()),
    "speed": Neutral(("standard",)),
    "top_k": Neutral(()),
    "user_profile_id": Neutral(()),
}
"""Fields of Anthropic's that OpenAI has no word for."""

TOOLS: Mapping[str, Neutral] = {
    "allowed_callers": Neutral((["direct"],)),
    "defer_loading": Neutral((False,)),
    "input_examples": Neutral(([],), "Put them into the description."),
}
"""The same for tools."""

FORMAT_NAME: Final = "answer"
"""Of a schema, which must have a name in OpenAI's dialect and has none in Anthropic's."""

TEMPERATURE_MOST = 1.0

FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])

NO_PARAMETERS = msgspec.Raw(b'{"type":"object","properties":{}}')


def to_messages(body: bytes, model: str, most_tokens: int = MESSAGES_ANSWER_TOKENS) -> bytes:
    """A body in OpenAI's dialect as Anthropic's has it, for that `model`; `most_tokens` bounds the
    answer where the caller does not. Raises BadJson, BadField, NotTranslatable."""
    asked = decoded(body, chat.Request, "anthropic")
    check_neutral(asked, CHAT, "anthropic")
    system, said = turns.to_messages(asked.messages)
    if not said:
        raise not_said(
            "messages", "anthropic", remedy="Add a message of a user; it takes one to answer."
        )
    if asked.temperature is not None and asked.temperature > TEMPERATURE_MOST:
        raise not_said(
            "temperature",
            "anthropic",
            value=asked.temperature,
            remedy=f"Use one of up to {TEMPERATURE_MOST:g}, or another model.",
        )
    tools, choice = _tools_of_messages(asked)
    user = asked.safety_identifier or asked.user
    return msgspec.json.encode(
        messages.Request(
            model,
            _most_tokens(asked, most_tokens),
            said,
            metadata=messages.Metadata(user) if user else None,
            output_config=_output_config(asked),
            service_tier=_tier_of_messages(asked),
            stop_sequences=_stops(asked.stop),
            stream=asked.stream,
            system=_system(system),
            temperature=asked.temperature,
            thinking=_thinking(asked),
            tool_choice=choice,
            tools=tools or None,
            top_k=asked.top_k,
            top_p=asked.top_p,
        )
    )


def _most_tokens(asked: chat.Request, otherwise: int) -> int:
    new, old = asked.max_completion_tokens, asked.max_tokens
    if new is not None and old is not None and new != old:
        raise BadField(
            "`max_tokens` and `max_completion_tokens` contradict each other",
            param="max_tokens",
            value=f"{old} and {new}",
            remedy="Leave out `max_tokens`, which is the older name.",
        )
    if new is not None:
        return new
    return otherwise if old is None else old


def _stops(stop: str | list[str] | None) -> list[str] | None:
    return [stop] if isinstance(stop, str) else stop or None


def _system(blocks: list[messages.Text]) -> str | list[messages.Text] | None:
    match blocks:
        case [messages.Text(text, None)]:
            return text
    return blocks or None


def _tier_of_messages(asked: chat.Request) -> Literal["auto", "standard_only"] | None:
    match asked.service_tier:
        case None | "auto":
            return asked.service_tier
        case "default":
            return "standard_only"
    raise not_said("service_tier", "anthropic", value=asked.service_tier)


def _thinking(asked: chat.Request) -> messages.ThinkingConfig | None:
    if asked.thinking is not None or asked.reasoning_effort is None:
        return asked.thinking
    return messages.Disabled() if asked.reasoning_effort == "none" else messages.Adaptive()


def _output_config(asked: chat.Request) -> messages.OutputConfig | None:
    effort = asked.reasoning_effort
    if effort == "minimal":
        raise not_said("reasoning_effort", "anthropic", value=effort, remedy="Use none or low.")
    schema = _format_of_messages(asked.response_format)
    if schema is None and effort in (None, "none"):
        return None
    return messages.OutputConfig(None if effort == "none" else effort, schema)


def _format_of_messages(asked: chat.Format | None) -> messages.Format | None:
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        raise not_said(
            "response_format.type",
            "anthropic",
            value=asked.type,
            remedy="Use json_schema, and say which JSON.",
        )
    schema = asked.json_schema.schema if asked.json_schema else msgspec.UNSET
    if asked.json_schema is None or schema is msgspec.UNSET or not is_object(schema):
        place = "response_format.json_schema.schema"
        raise BadField(f"`{place}` is no object", param=place, remedy="Send a JSON Schema.")
    return messages.Format("json_schema", _described(schema, asked.json_schema.description))


def _described(schema: msgspec.Raw, description: str | None) -> msgspec.Raw:
    """What a format is for, which models read, is said in the schema itself."""
    if not description:
        return schema
    fields = FIELDS.decode(schema)
    if "description" in fields:
        raise not_said(
            "response_format.json_schema.description",
            "anthropic",
            remedy="Say it in the schema's own description.",
        )
    said = {"description": msgspec.Raw(msgspec.json.encode(description)), **fields}
    return msgspec.Raw(msgspec.json.encode(said))


def _tools_of_messages(asked: chat.Request) -> tuple[list[messages.Tool], messages.Choice | None]:
    known = asked.tools or []
    # One call at most, or as many as the model likes: what both dialects do unasked.
    single = True if asked.parallel_tool_calls is False else None
    choice = asked.tool_choice
    if isinstance(choice, chat.AllowedChoice):
        names = {tool.function.name for tool in choice.allowed_tools.tools}
        known = [tool for tool in known if tool.function.name in names]
        choice = choice.allowed_tools.mode
    tools = [_tool_of_messages(tool, f"tools[{at}]") for at, tool in enumerate(known)]
    if isinstance(choice, chat.NamedChoice):
        return tools, messages.ToolChoice(choice.function.name, single)
    if choice == "required":
        return tools, messages.AnyChoice(single)
    if not tools:
        return [], None
    if choice == "none":
        return tools, messages.NoChoice()
    return tools, messages.AutoChoice(single) if choice or single else None


def _tool_of_messages(tool: chat.FunctionTool, place: str) -> messages.Tool:
    function = tool.function
    return messages.Tool(
        function.name,
        _parameters(function.parameters, f"{place}.function.parameters"),
        function.description,
        function.strict or None,
        tool.cache_control,
    )


def _parameters(given: msgspec.Raw | msgspec.UnsetType, place: str) -> msgspec.Raw:
    """Without any, a function takes none; and what it takes is always an object."""
    if given is msgspec.UNSET or bytes(given) == b"null":
        return NO_PARAMETERS
    if not is_object(given):
        raise BadField(f"`{place}` is no object", param=place, remedy="Send a JSON Schema.")
    fields = FIELDS.decode(given)
    if "type" in fields:
        return given
    return msgspec.Raw(msgspec.json.encode({"type": msgspec.Raw(b'"object"'), **fields}))


def to_chat(
    body: bytes,
    model: str,
    *,
    tokens_field: TokensField = "max_completion_tokens",
    breakpoints: bool = False,
) -> bytes:
    """A body in Anthropic's dialect as OpenAI's has it, for that `model`. `breakpoints`: whether
    its provider knows `prompt_cache_breakpoint`. Raises BadJson, BadField, NotTranslatable."""
    asked = decoded(body, messages.Request, "openai")
    check_neutral(asked, MESSAGES, "openai")
    if asked.max_tokens == 0:
        raise not_said("max_tokens", "openai", value=0)
    parallel, choice = _choice_of_chat(asked.tool_choice)
    config = asked.output_config or messages.OutputConfig()
    request = chat.Request(
        model,
        turns.to_chat(asked.system, asked.messages, breakpoints=breakpoints),
        parallel_tool_calls=parallel,
        reasoning_effort=_effort(asked.thinking, config),
        response_format=None if config.format is None else _format_of_chat(config.format),
        service_tier="default" if asked.service_tier == "standard_only" else asked.service_tier,
        stop=asked.stop_sequences or None,
        stream=asked.stream,
        # A stream of Anthropic's always ends with its usage.
        stream_options=chat.StreamOptions(include_usage=True) if asked.stream else None,
        temperature=asked.temperature,
        tool_choice=choice,
        tools=_tools_of_chat(asked.tools or []) or None,
        top_p=asked.top_p,
        user=asked.metadata.user_id if asked.metadata else None,
    )
    bound = {tokens_field: asked.max_tokens}
    return msgspec.json.encode(msgspec.structs.replace(request, **bound))


def _choice_of_chat(
    choice: messages.Choice | None,
) -> tuple[bool | None, Literal["none", "auto", "required"] | chat.NamedChoice | None]:
    """Whether there may be several calls, and which."""
    match choice:
        case None:
            return None, None
        case messages.NoChoice():
            return None, "none"
        case messages.AutoChoice(single):
            return False if single else None, "auto"
        case messages.AnyChoice(single):
            return False if single else None, "required"
        case messages.ToolChoice(name, single):
            return False if single else None, chat.NamedChoice(chat.Named(name))


def _effort(
    thinking: messages.ThinkingConfig | None, config: messages.OutputConfig
) -> Literal["none", "low", "medium", "high", "xhigh", "max"] | None:
    if isinstance(thinking, messages.Enabled):
        raise not_said(
            "thinking.budget_tokens",
            "openai",
            value=thinking.budget_tokens,
            remedy="Use thinking of type adaptive, and `output_config.effort`.",
        )
    if isinstance(thinking, messages.BetweenTools):
        raise not_said("thinking.type", "openai", value="between_tools")
    if isinstance(thinking, messages.Disabled):
        if config.effort is not None:
            raise not_said(
                "output_config.effort",
                "openai",
                value=config.effort,
                remedy="Leave it out, or let the model think: there it is how hard it thinks.",
            )
        return "none"
    return config.effort


def _format_of_chat(asked: messages.Format) -> chat.Format:
    if not is_object(asked.schema):
        place = "output_config.format.schema"
        raise BadField(f"`{place}` is no object", param=place, remedy="Send a JSON Schema.")
    return chat.Format("json_schema", chat.Schema(FORMAT_NAME, schema=asked.schema, strict=True))


def _tools_of_chat(tools: Sequence[messages.Tool]) -> list[chat.FunctionTool]:
    return [_tool_of_chat(tool, f"tools[{at}].") for at, tool in enumerate(tools)]


def _tool_of_chat(tool: messages.Tool, place: str) -> chat.FunctionTool:
    check_neutral(tool, TOOLS, "openai", place)
    if not is_object(tool.input_schema):
        param = f"{place}input_schema"
        raise BadField(f"`{param}` is no object", param=param, remedy="Send a JSON Schema.")
    function = chat.Function(
        tool.name, tool.description, tool.input_schema, True if tool.strict else None
    )
    return chat.FunctionTool("function", function)
