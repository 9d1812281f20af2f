"""Simulated moderations in OpenAI's dialect: flagged is what names a category, and nothing else.
Called by `provider.py`."""

from typing import Any

import msgspec
import orjson

from paceline.gateway.providers.simulated.answers import Answer, Made, Refused, whole
from paceline.gateway.providers.simulated.reading import check_model, read
from paceline.gateway.providers.simulated.wishes import MODERATION_MODEL, Wish
from paceline.terms.limits import SIMULATED_ITEMS

CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)

IMAGE_CATEGORIES = (
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "violence",
    "violence/graphic",
)


class _ModerationPart(msgspec.Struct):
    type: str
    text: str | None = None


class _Moderation(msgspec.Struct):
    input: str | list[str | _ModerationPart]


def answer(body: bytes, wish: Wish, made: Made) -> Answer:
    asked = read(body, _Moderation)
    check_model(wish, (MODERATION_MODEL,))
    given = asked.input
    texts = [given] if isinstance(given, str) else [each for each in given if isinstance(each, str)]
    parts = [] if isinstance(given, str) else [each for each in given if not isinstance(each, str)]
    if parts:
        texts = [" ".join(part.text or "" for part in parts)]
    if not 1 <= len(texts) <= SIMULATED_ITEMS:
        raise Refused(400, f"Between 1 and {SIMULATED_ITEMS} texts.", param="input")
    images = any(part.type == "image_url" for part in parts)
    fields = {
        "id": f"modr-{made.id}",
        "model": wish.model,
        "results": [_moderated(text.lower(), images) for text in texts],
    }
    return whole(orjson.dumps(fields), 0)


def _moderated(text: str, images: bool) -> dict[str, Any]:
    flags = {each: all(word in text for word in each.split("/")) for each in CATEGORIES}
    both = ["text", "image"]
    return {
        "flagged": any(flags.values()),
        "categories": flags,
        "category_scores": {each: 0.99 if flag else 0.0001 for each, flag in flags.items()},
        "category_applied_input_types": {
            each: both if images and each in IMAGE_CATEGORIES else ["text"] for each in CATEGORIES
        },
    }
