"""The serving plane: models, what they take and give, and the two JSON forms of a request.

It reads and writes no sockets of callers; `web/` does. Nothing is imported here, so that a process
which serves nothing loads no numpy.

`paceline.serve(...)` is what people call to serve a model from Python, and this package has the
name: so it can be called, and hands on to `cli/serving.py`.
"""

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *given: Any, **named: Any) -> None:
        from importlib import import_module

        import_module("paceline.cli.serving").serve(*given, **named)


sys.modules[__name__].__class__ = _Callable
