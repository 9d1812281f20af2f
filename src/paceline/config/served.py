"""Which models the settings name, and what each of them is loaded from. Pure, but that a path is
made absolute. Called by `source.py`; commands that name a model themselves make an `Only`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from paceline.config.fields import did_you_mean
from paceline.serve.model_source import ModelSource
from paceline.terms.errors import BadSetting, LimitReached
from paceline.terms.limits import MODEL_NAME_CHARS, MODEL_SOURCE_BYTES, MODELS

NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{MODEL_NAME_CHARS - 1}}}")

LOADED_FROM = ("path", "python")


class Only(NamedTuple):
    """One model, named by a command. `named_by` and `goal_by` are what the user typed for it."""

    model: ModelSource
    named_by: str
    goal: tuple[str, ...] = ()
    goal_by: str = ""


def named(tree: Mapping[str, Any] | None, shipped: Sequence[str]) -> list[str]:
    """Those a file speaks of: shipped ones, and others that say what they are loaded from. Where
    it speaks of none, all that are shipped; but none where it names providers of LLMs: an example
    beside them would cost each front of a gateway 14 MB, and nobody asked for it."""
    said = {} if tree is None else tree.get("models", {})
    if not isinstance(said, dict):
        return [*shipped]
    found = [name for name, of_model in said.items() if name in shipped or _loads(name, of_model)]
    if len(found) > MODELS:
        raise LimitReached(
            "the settings name more models than one server may have",
            value=len(found),
            remedy=f"Name up to {MODELS}, and start another server for the others.",
        )
    if not found and tree is not None and tree.get("providers"):
        return []
    return found or [*shipped]


def _loads(name: str, of_model: object) -> bool:
    return (
        isinstance(of_model, dict)
        and NAME.fullmatch(name) is not None
        and any(each in of_model for each in LOADED_FROM)
    )


def remedy(name: str, of_model: Mapping[str, Any], shipped: Sequence[str]) -> str:
    """For a section of a model that cannot be served."""
    near = did_you_mean(name, shipped, "models.{}?")
    if NAME.fullmatch(name) is None:
        return near or (
            f"Use up to {MODEL_NAME_CHARS} letters, digits, dashes or underscores for its name."
        )
    return (
        near or 'Say what it is loaded from: path = "model.onnx", or python = "model.py:predict".'
    )


def needs_restart(
    started_with: Sequence[ModelSource], new: Sequence[ModelSource]
) -> tuple[str, ...]:
    """Of which models a running server would have to load something else, in words."""
    before, after = ({each.name: each for each in models} for models in (started_with, new))
    return tuple(
        f"models.{name}"
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    )


def source_of(name: str, path: str, python: str, folder: Path, *, shipped: bool) -> ModelSource:
    """What says neither is a shipped model."""
    if not (path or python or shipped):
        raise BadSetting(
            f"{name} says not what it is loaded from",
            value='""',
            remedy="Name its file: it is none of the models that come with Paceline.",
        )
    if path and python:
        raise BadSetting(
            f"{name} has a path and a callable of Python",
            value=f"{path}, {python}",
            remedy="Leave one of them out: a model is loaded from one place.",
        )
    folder = folder.absolute()
    if python:
        where, colon, attribute = python.rpartition(":")
        if not (where and colon and attribute):
            raise BadSetting(
                f"{name} names no callable of Python",
                value=python,
                remedy='Write the file and its name in it, such as "my_model.py:predict".',
            )
        python = f"{folder / where}:{attribute}" if where.endswith(".py") else python
    source = ModelSource(
        name, str(folder / path) if path else "", python, folders=(str(folder),) if python else ()
    )
    if len("".join((source.path, source.python, *source.folders)).encode()) > MODEL_SOURCE_BYTES:
        raise BadSetting(
            f"where {name} is loaded from is too long",
            value=path or python,
            remedy=f"Shorten it to {MODEL_SOURCE_BYTES} bytes, the folder of the file included.",
        )
    return source
