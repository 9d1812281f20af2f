"""Arguments of tool calls: a string that should be JSON for OpenAI, an object for Anthropic.

Models do write JSON that is none. Such a string becomes an object of one field that names it, which
no tool takes for its arguments, and becomes itself again on the way back; so a model is shown its
own mistake, and no call is ever run with arguments that nobody gave. Numbers and order are kept,
for the text is carried over as it is.

Called by `turns.py`, and by `answers.py`.
"""

import msgspec

WRITTEN = "__not_json__"
"""The one field of an object that stands for arguments which are none."""

NONE = msgspec.Raw(b"{}")

OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    text: str = msgspec.field(name=WRITTEN)


WRITTEN_DECODER = msgspec.json.Decoder(_Written)


def input_of(arguments: str) -> msgspec.Raw:
    """An object in JSON. Tools without parameters are called with nothing at all, too."""
    if not arguments.strip():
        return NONE
    if _is_object(arguments):
        return msgspec.Raw(arguments)
    return msgspec.Raw(msgspec.json.encode({WRITTEN: arguments}))


def arguments_of(input: bytes) -> str:
    """Of an object in JSON."""
    try:
        written = WRITTEN_DECODER.decode(input).text
    except msgspec.DecodeError:
        return input.decode()
    return input.decode() if _is_object(written) else written


def _is_object(text: str) -> bool:
    try:
        OBJECT.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
