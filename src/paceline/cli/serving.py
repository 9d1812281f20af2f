"""Serving one model without a settings file: `paceline serve` and `paceline.serve` are this.

Where `./.paceline` cannot be written, its memory is in RAM and goes when it stops.
"""

import inspect
import os
import re
import shutil
import sys
import tempfile
import threading
from asyncio import get_running_loop
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from paceline.cli.config import settings_source
from paceline.cli.started import say
from paceline.config import DEFAULT_STATE
from paceline.serve.model_source import ModelSource, Shapes, declared
from paceline.terms.amounts import seconds
from paceline.terms.errors import BadModel, Misuse
from paceline.terms.limits import MODEL_NAME_CHARS, MODEL_SOURCE_BYTES, MODELS

if TYPE_CHECKING:
    from paceline.config.source import Loaded

MEMORY = Path("/dev/shm")

HOW = "Put it below `if __name__ == '__main__':`, so that it is not run there."


def serve(
    model: str | os.PathLike[str] | Callable[..., Any],
    *,
    slo: str | None = None,
    name: str | None = None,
    inputs: Shapes | None = None,
    outputs: Shapes | None = None,
    pure: bool = False,
    host: str | None = None,
    port: int | None = None,
    fronts: int | None = None,
    state: str | os.PathLike[str] | None = None,
) -> None:
    """Serves a model until Ctrl-C: an ONNX file, or a callable.

    A callable gets a dict of arrays, with all rows of a batch, and returns such a dict, or the one
    array there is. A class is made an instance of, and that is called. It runs in a process of its
    own, which finds it by its file and its name. `inputs` and `outputs` say what it takes and
    gives, where `@paceline.model` does not; `pure`: it may be called again with the same rows.
    """
    _refuse_where_it_cannot()
    if callable(model):
        source = source_of_callable(model, name)
        if inputs is not None or outputs is not None:
            said = declared(inputs or {}, outputs or {}, pure=pure)
            source = msgspec.structs.replace(source, declared=said)
    else:
        source = source_of(os.fspath(model), name)
    flags = {
        "host": host,
        "port": port,
        "fronts": fronts,
        "state": None if state is None else os.fspath(state),
    }
    serve_one(source, slo, flags, ("the model given", "slo"), as_json=False)


def serve_one(
    source: ModelSource,
    slo: str | None,
    flags: Mapping[str, object],
    named_by: tuple[str, str],
    *,
    as_json: bool,
) -> None:
    """Until it is told to stop. `named_by`: what the user calls model and slo."""
    from paceline.app import run_owner
    from paceline.config.served import Only

    goal = () if slo is None else (f"p99_ms <= {seconds(slo, named_by[1]) * 1e3:.12g}",)
    only = Only(source, named_by[0], goal, named_by[1])
    loaded = settings_source(None, flags, only).load()
    with _memory(loaded) as (state, note):
        if state is not None:
            loaded = settings_source(None, {**flags, "state": state}, only).load()
        run_owner(loaded, lambda address, takes: say(loaded, address, takes, as_json, note))


@contextmanager
def _memory(loaded: "Loaded") -> Iterator[tuple[str | None, str]]:
    """A directory in RAM, where none was named and the usual one cannot be written."""
    default = Path(DEFAULT_STATE)
    place = default if default.exists() else default.parent
    if loaded.origins["server.state"].kind != "default" or os.access(place, os.W_OK | os.X_OK):
        yield None, ""
        return
    made = tempfile.mkdtemp(prefix="paceline-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
    try:
        yield made, f"; in memory until it stops, for {place.absolute()} cannot be written"
    finally:
        shutil.rmtree(made, ignore_errors=True)


def source_of(text: str, name: str | None) -> ModelSource:
    """What a user wrote: the path of an ONNX file, `file.py:name`, `module:name`, or digits."""
    from paceline.app import SHIPPED
    from paceline.config.served import source_of as source

    if text in SHIPPED:
        return ModelSource(text)
    where, colon, attribute = text.rpartition(":")
    if colon and where and attribute and not text.endswith(".onnx"):
        stem = Path(where).stem if where.endswith(".py") else where
        return source(valid(name, f"{stem}-{attribute}"), "", text, Path(), shipped=False)
    if not text.endswith(".onnx"):
        raise BadModel(
            "this names no model",
            value=text,
            remedy="Name an ONNX file, model.onnx, or a callable of Python, my_model.py:predict.",
        )
    return source(valid(name, Path(text).stem), text, "", Path(), shipped=False)


def source_of_callable(call: Callable[..., Any], name: str | None) -> ModelSource:
    """Another process must find it: by the file and the name of its definition."""
    if not (inspect.isfunction(call) or inspect.isclass(call)):
        raise BadModel(
            f"a {type(call).__name__} cannot be found again by another process",
            value=repr(call),
            remedy="Give a function, or a class without arguments whose instances can be called.",
        )
    qualified = call.__qualname__
    if "<" in qualified:
        raise BadModel(
            f"`{qualified}` cannot be found again by another process: it has no name of its own",
            value=qualified,
            remedy="Define it with `def` or `class` at the top of a file.",
        )
    module = sys.modules.get(call.__module__)
    file = getattr(module, "__file__", None)
    if file is None:
        raise BadModel(
            f"`{qualified}` was not read from a file, so another process cannot find it",
            value=qualified,
            remedy="Write it into a file, and serve that: `paceline serve my_model.py:predict`.",
        )
    spec = getattr(module, "__spec__", None)
    in_module = call.__module__ if call.__module__ != "__main__" else spec and spec.name
    where = str(Path(file).absolute()) if in_module is None else in_module
    folders = tuple(dict.fromkeys(str(Path(each).absolute()) for each in sys.path))
    source = ModelSource(valid(name, qualified), "", f"{where}:{qualified}", folders)
    if len("".join((source.python, *folders)).encode()) > MODELS * MODEL_SOURCE_BYTES:
        raise BadModel(
            f"`{qualified}` cannot be found again: the paths of modules are too long",
            value=len(folders),
            remedy="Start it by itself: `paceline serve my_model.py:predict`.",
        )
    return source


def valid(name: str | None, otherwise: str) -> str:
    """The name as given, or another one made fit to be one."""
    from paceline.config.served import NAME

    if name is None:
        made = re.sub(r"[^A-Za-z0-9_-]+", "-", otherwise).strip("-_")
        return made[:MODEL_NAME_CHARS] or "model"
    if NAME.fullmatch(name) is None:
        raise Misuse(
            "this cannot be the name of a model",
            value=name,
            remedy=f"Use up to {MODEL_NAME_CHARS} letters, digits, dashes or underscores.",
        )
    return name


def _refuse_where_it_cannot() -> None:
    if sys.argv[1:] == ["_model"]:
        raise Misuse("paceline.serve was called while its model was loaded", remedy=HOW)
    if threading.current_thread() is not threading.main_thread() or _in_loop():
        raise Misuse(
            "paceline.serve needs the main thread of a program, without a running event loop",
            remedy="Start it as a program of its own: `paceline serve my_model.py:predict`.",
        )


def _in_loop() -> bool:
    try:
        get_running_loop()
    except RuntimeError:
        return False
    return True
