"""What was said so far, from one dialect into the other.

In OpenAI's, a conversation is any row of messages, and what a tool answered is a message of its
own role. In Anthropic's, users and assistants take turns, a tool's answer is a block in the user's
turn, and system messages before the first turn stand apart; later ones stay where they are, which
its newer models take. So messages of one role that follow each other become one, in both
directions: both vendors read them so.

Left out, as nobody reads it: empty texts (Anthropic refuses them), `annotations` and reasoning of
earlier answers in OpenAI's dialect, thinking of earlier answers on the way into it (it is signed,
for Anthropic's models alone), and the `name` of a tool message, whose call has it.

Order is kept but in one place: an assistant's text after a tool call stands before it in OpenAI's
dialect, where content and calls of a message have no order.

Called by `requests.py`.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Final

from paceline.gateway.translate import chat, messages
from paceline.gateway.translate.arguments import arguments_of, input_of
from paceline.gateway.translate.fields import Neutral, check_neutral, is_object, not_said
from paceline.terms.errors import BadField

IMAGES: Mapping[str, str] = {
    "image/jpeg": "image/jpeg",
    "image/jpg": "image/jpeg",
    "image/png": "image/png",
    "image/gif": "image/gif",
    "image/webp": "image/webp",
}
"""Kinds of images that both vendors take, and what Anthropic calls them."""

PDF: Final = "application/pdf"

FAILED = "Error: "
"""How OpenAI's dialect, which has no `is_error`, is told that a tool failed."""

CALL_ID = re.compile(r"[a-zA-Z0-9_-]+")
"""What Anthropic takes as the id of a tool call."""

CALL_ID_CHARS = 40
"""The longest such id that OpenAI takes."""

LONG_TTL: Final = "1h"
"""Anthropic's for both longer ones of OpenAI's, which are the least it is to last."""

NO_NAMES = "Put the name into the text, where every model reads it."
NO_PREFILL = (
    "End with a user's message. Models of this dialect begin a new answer after an assistant's"
    " message instead of going on with it."
)

ASSISTANT = {
    "audio": Neutral((), "Send its transcript as text."),
    "function_call": Neutral((), "Use `tool_calls`."),
    "name": Neutral((), NO_NAMES),
}
TEXT = {"citations": Neutral(([],))}
IMAGE = {"transformations": Neutral(({}, {"oversized_image": "downsize"}))}
DOCUMENT = {
    "citations": Neutral(({}, {"enabled": False})),
    "context": Neutral(("",), "Put it into a text before the document."),
}
TOOL_USE = {"caller": Neutral(({"type": "direct"},)), "toolset_name": Neutral(())}
TOOL_RESULT = {"toolset_name": Neutral(())}


def to_messages(
    said: Sequence[chat.Message],
) -> tuple[list[messages.Text], list[messages.Message]]:
    """The system prompt, and the turns."""
    system: list[messages.Text] = []
    turns: list[tuple[messages.Role, list[messages.Block]]] = []
    for position, message in enumerate(said):
        place = f"messages[{position}]"
        role, blocks = _turn(message, place)
        if role == "system" and not turns:
            system += [block for block in blocks if isinstance(block, messages.Text)]
        elif turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        elif blocks:
            turns.append((role, blocks))
    return system, [messages.Message(role, _content(blocks)) for role, blocks in turns]


def _content(blocks: list[messages.Block]) -> str | list[messages.Block]:
    match blocks:
        case [messages.Text(text, None)]:
            return text
    return blocks


def _turn(message: chat.Message, place: str) -> tuple[messages.Role, list[messages.Block]]:
    if isinstance(message, chat.Tool):
        return "user", [_result(message, place)]
    if message.name is not None:
        raise not_said(f"{place}.name", "anthropic", remedy=NO_NAMES)
    if isinstance(message, chat.Assistant):
        return "assistant", _answered(message, place)
    role: messages.Role = "user" if isinstance(message, chat.User) else "system"
    return role, _blocks(message.content, place)


def _blocks(
    content: str | Sequence[chat.Text | chat.Image | chat.File | chat.Refusal], place: str
) -> list[messages.Block]:
    if isinstance(content, str):
        return [messages.Text(content)] if content else []
    blocks: list[messages.Block] = []
    for position, part in enumerate(content):
        at = f"{place}.content[{position}]"
        if isinstance(part, chat.Refusal):
            if part.refusal:
                blocks.append(messages.Text(part.refusal))
        elif isinstance(part, chat.Text):
            if part.text:
                blocks.append(messages.Text(part.text, _kept(part)))
        elif isinstance(part, chat.Image):
            blocks.append(_seen(part, at))
        else:
            blocks.append(_document(part, at))
    return blocks


def _kept(part: chat.Text | chat.Image | chat.File) -> messages.CacheControl | None:
    """Where OpenAI's mark says nothing of how long, so does Anthropic's."""
    if part.cache_control is not None or part.prompt_cache_breakpoint is None:
        return part.cache_control
    return messages.CacheControl(
        "ephemeral", None if part.prompt_cache_breakpoint.ttl is None else LONG_TTL
    )


def _seen(part: chat.Image, place: str) -> messages.Image:
    url = part.image_url.url
    if part.image_url.detail == "low":
        raise not_said(
            f"{place}.image_url.detail", "anthropic", value="low", remedy="Send a smaller image."
        )
    if url.startswith(("https://", "http://")):
        return messages.Image(messages.Url(url), _kept(part))
    kind, data = _data_url(url, f"{place}.image_url.url")
    if kind not in IMAGES:
        raise not_said(
            f"{place}.image_url.url",
            "anthropic",
            value=kind,
            remedy="Send JPEG, PNG, GIF or WebP.",
        )
    return messages.Image(messages.Encoded(IMAGES[kind], data), _kept(part))


def _document(part: chat.File, place: str) -> messages.Document:
    file = part.file
    if file.file_data is None or file.file_id is not None:
        raise not_said(
            f"{place}.file.file_id" if file.file_id is not None else f"{place}.file",
            "anthropic",
            remedy="Send the file itself in `file_data`; ids of files hold with one vendor alone.",
        )
    kind, data = _data_url(file.file_data, f"{place}.file.file_data")
    if kind != PDF:
        raise not_said(f"{place}.file.file_data", "anthropic", value=kind, remedy="Send a PDF.")
    return messages.Document(messages.Encoded(PDF, data), _kept(part), title=file.filename)


def _data_url(url: str, place: str) -> tuple[str, str]:
    """The kind of what a `data:` URL holds, and that in base64."""
    head, comma, data = url.partition(",")
    kind, *parameters = head.removeprefix("data:").split(";")
    if not (comma and head.startswith("data:") and parameters and parameters[-1] == "base64"):
        raise BadField(
            f"`{place}` is no URL that can be read",
            param=place,
            value=url[:40],
            remedy="Send an address of http or https, or `data:` with its kind and `;base64,`.",
        )
    return kind.lower(), data


def _answered(message: chat.Assistant, place: str) -> list[messages.Block]:
    check_neutral(message, ASSISTANT, "anthropic", f"{place}.")
    blocks = _blocks(message.content or "", place)
    if message.refusal:
        blocks.append(messages.Text(message.refusal))
    for call in message.tool_calls or []:
        blocks.append(
            messages.ToolUse(
                _use_id(call.id), call.function.name, input_of(call.function.arguments)
            )
        )
    return blocks


def _use_id(id: str) -> str:
    """The same id wherever it stands. Providers make up ids that Anthropic does not take."""
    return id if CALL_ID.fullmatch(id) else f"toolu_{_short(id)}"


def _call_id(id: str) -> str:
    return id if len(id) <= CALL_ID_CHARS else f"call_{_short(id)}"


def _short(id: str) -> str:
    return hashlib.sha256(id.encode()).hexdigest()[:24]


def _result(message: chat.Tool, place: str) -> messages.ToolResult:
    content: list[messages.Text | messages.Image] = [
        block
        for block in _blocks(message.content, place)
        if isinstance(block, messages.Text | messages.Image)
    ]
    match content:
        case [messages.Text(text, None)]:
            return messages.ToolResult(_use_id(message.tool_call_id), text)
    return messages.ToolResult(_use_id(message.tool_call_id), content or None)


def to_chat(
    system: str | Sequence[messages.Text] | None,
    turns: Sequence[messages.Message],
    *,
    breakpoints: bool,
) -> list[chat.Message]:
    if turns and turns[-1].role == "assistant":
        raise not_said(f"messages[{len(turns) - 1}]", "openai", remedy=NO_PREFILL)
    said = _Said(breakpoints)
    said.system(system or [], "system")
    for position, turn in enumerate(turns):
        said.turn(turn, f"messages[{position}].content")
    said.flush()
    return said.messages


class _Said:
    """Messages in OpenAI's dialect, and the one that is being written."""

    def __init__(self, breakpoints: bool) -> None:
        self.messages: list[chat.Message] = []
        self._breakpoints = breakpoints
        self._role: messages.Role | None = None
        self._texts: list[chat.Text] = []
        self._parts: list[chat.Text | chat.Image | chat.File] = []
        self._calls: list[chat.ToolCall] = []

    def turn(self, turn: messages.Message, place: str) -> None:
        if turn.role != self._role:
            self.flush()
            self._role = turn.role
        content = [messages.Text(turn.content)] if isinstance(turn.content, str) else turn.content
        for position, block in enumerate(content):
            at = f"{place}[{position}]"
            if turn.role == "user":
                self._heard(block, at)
            elif turn.role == "assistant":
                self._answered(block, at)
            elif isinstance(block, messages.Text):
                self._texts += self._text(block, at)
            else:
                raise not_said(at, "openai")

    def system(self, content: str | Sequence[messages.Text], place: str) -> None:
        blocks = [messages.Text(content)] if isinstance(content, str) else content
        for position, block in enumerate(blocks):
            self._texts += self._text(block, f"{place}[{position}]")
        self._role = "system"

    def flush(self) -> None:
        """Ends the message that is being written."""
        texts, self._texts = self._texts, []
        parts, self._parts = self._parts, []
        calls, self._calls = self._calls, []
        if self._role == "assistant" and (texts or calls):
            self.messages.append(
                chat.Assistant(_plain(texts) if texts else None, tool_calls=calls or None)
            )
        elif texts:
            self.messages.append(chat.System(_plain(texts)))
        elif parts:
            match parts:
                case [chat.Text(text, None)]:
                    self.messages.append(chat.User(text))
                case _:
                    self.messages.append(chat.User(parts))

    def _heard(self, block: messages.Block, place: str) -> None:
        if isinstance(block, messages.Text):
            self._parts += self._text(block, place)
        elif isinstance(block, messages.Image):
            self._parts.append(self._image(block, place))
        elif isinstance(block, messages.Document):
            self._parts.append(self._file(block, place))
        elif isinstance(block, messages.ToolResult):
            self.flush()
            self.messages.append(self._result(block, place))
        else:
            raise not_said(place, "openai")

    def _answered(self, block: messages.Block, place: str) -> None:
        if isinstance(block, messages.Text):
            self._texts += self._text(block, place)
        elif isinstance(block, messages.ToolUse):
            self._calls.append(self._call(block, place))
        elif not isinstance(block, messages.Thinking | messages.RedactedThinking):
            raise not_said(place, "openai")

    def _text(self, block: messages.Text, place: str) -> list[chat.Text]:
        """None where it is empty."""
        check_neutral(block, TEXT, "openai", f"{place}.")
        return [chat.Text(block.text, self._breakpoint(block))] if block.text else []

    def _image(self, block: messages.Image, place: str) -> chat.Image:
        check_neutral(block, IMAGE, "openai", f"{place}.")
        source = block.source
        if isinstance(source, messages.Url):
            url = source.url
        else:
            url = f"data:{source.media_type};base64,{source.data}"
        return chat.Image(chat.ImageUrl(url), self._breakpoint(block))

    def _file(self, block: messages.Document, place: str) -> chat.File:
        check_neutral(block, DOCUMENT, "openai", f"{place}.")
        source = block.source
        if source.media_type != PDF:
            raise not_said(f"{place}.source.media_type", "openai", value=source.media_type)
        data = chat.FileData(f"data:{PDF};base64,{source.data}", filename=block.title)
        return chat.File(data, self._breakpoint(block))

    def _breakpoint(
        self, block: messages.Text | messages.Image | messages.Document
    ) -> chat.Breakpoint | None:
        if block.cache_control is None or not self._breakpoints:
            return None
        return chat.Breakpoint("explicit", "12h" if block.cache_control.ttl == LONG_TTL else None)

    def _call(self, block: messages.ToolUse, place: str) -> chat.ToolCall:
        check_neutral(block, TOOL_USE, "openai", f"{place}.")
        if not is_object(block.input):
            raise BadField(
                f"`{place}.input` is no object", param=f"{place}.input", remedy="Send an object."
            )
        called = chat.Called(block.name, arguments_of(bytes(block.input)))
        return chat.ToolCall(_call_id(block.id), "function", called)

    def _result(self, block: messages.ToolResult, place: str) -> chat.Tool:
        check_neutral(block, TOOL_RESULT, "openai", f"{place}.")
        content = block.content or []
        texts: list[chat.Text] = []
        if isinstance(content, str):
            texts.append(chat.Text(content))
        else:
            for position, part in enumerate(content):
                at = f"{place}.content[{position}]"
                if isinstance(part, messages.Image):
                    raise not_said(
                        at,
                        "openai",
                        remedy="Send the image in the user's turn, after the results.",
                    )
                texts += self._text(part, at)
        if block.is_error and texts:
            texts[0] = chat.Text(FAILED + texts[0].text, texts[0].prompt_cache_breakpoint)
        elif block.is_error:
            texts = [chat.Text(FAILED.strip())]
        return chat.Tool(_plain(texts) if texts else "", _call_id(block.tool_use_id))


def _plain(texts: list[chat.Text]) -> str | Sequence[chat.Text]:
    """Most providers take a string wherever one is enough, and not all of them take parts."""
    match texts:
        case [chat.Text(text, None)]:
            return text
    return texts
