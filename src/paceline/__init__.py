"""Paceline: say what an AI workload must achieve; it finds, runs and keeps proving the plan."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`paceline.serve` and `paceline.model`, found when somebody asks for them: this module is
    imported by every process, and by every floor of the house."""
    from importlib import import_module

    if name == "serve":
        return import_module("paceline.serve")
    if name == "model":
        return import_module("paceline.serve.model_source").model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
