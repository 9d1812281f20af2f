"""What a command prints once its server answers. Called by `up` and `serve`."""

import os
from typing import TYPE_CHECKING

import msgspec

import paceline
from paceline.cli.calling import curl
from paceline.config import Server
from paceline.gateway.upstream import costs

if TYPE_CHECKING:
    from paceline.config.source import Loaded
    from paceline.serve.model_source import ModelSource
    from paceline.web.fronts import Takes

MODELS_SHOWN = 8
LLMS_SHOWN = 4


def say(
    loaded: "Loaded", address: str, takes: "Takes", as_json: bool, state_note: str = ""
) -> None:
    """`state_note`: what there is to say of where its memory is."""
    settings = loaded.settings.server
    if as_json:
        what = {
            "address": address,
            "pid": os.getpid(),
            "state": settings.state,
            "config": None if loaded.file is None else str(loaded.file),
            "models": [each.name for each in loaded.models],
            "providers": [each.name for each in loaded.providers if not each.withheld],
            "version": paceline.__version__,
        }
        print(msgspec.json.encode(what).decode(), flush=True)
        return
    config = "" if loaded.file is None else f"  config {loaded.file}\n"
    key = " -H 'x-api-key: pl_...'" if needs_key(settings) else ""
    models = "".join(f"  model  {_about(each)}\n" for each in loaded.models[:MODELS_SHOWN])
    if len(loaded.models) > MODELS_SHOWN:
        models += f"         and {len(loaded.models) - MODELS_SHOWN} more\n"
    print(
        f"Paceline {paceline.__version__} answers at {address}\n"
        f"\n"
        f"{models}"
        f"{_of_llm(loaded)}"
        f"  page   {address}/\n"
        f"  state  {settings.state}, {settings.fronts} front{'s' * (settings.fronts > 1)}"
        f"{state_note}\n"
        f"{config}"
        f"\n"
        f"  try    {_to_try(loaded, address, takes, key)}\n"
        f"  stop   Ctrl-C here, or: curl -X POST {address}/api/shutdown{key}\n",
        flush=True,
    )


def _to_try(loaded: "Loaded", address: str, takes: "Takes", key: str) -> str:
    if not loaded.models:  # a gateway
        return f"curl {address}/v1/models{key}"
    first = loaded.models[0].name
    return curl(address, first, takes.get(first, ()), key)


def _of_llm(loaded: "Loaded") -> str:
    """Who answers LLM calls, and who would."""
    lines = []
    for each in loaded.providers[:MODELS_SHOWN]:
        if each.withheld:
            lines.append(f"{each.name}: off until --no-budget, for it may cost money")
        else:
            names = [model for model in each.models if ":" not in model]
            models = ", ".join(names[:LLMS_SHOWN]) + ", ..." * (len(names) > LLMS_SHOWN)
            budget = "; WITHOUT A BUDGET" if costs(each) else ""
            lines.append(f"{each.name}: {models or f'{each.name}/MODEL'}{budget}")
    if len(loaded.providers) > MODELS_SHOWN:
        lines.append(f"and {len(loaded.providers) - MODELS_SHOWN} more")
    if not lines:
        return ""
    return "".join(
        f"  {'llm' if not number else '':6} {'/v1' if not number else '':3}  {line}\n"
        for number, line in enumerate(lines)
    )


def _about(model: "ModelSource") -> str:
    if model.path or model.python:
        return f"{model.name}: {model.path or model.python}"
    return f"{model.name}: handwritten digits, 64 numbers in (the shipped example)"


def needs_key(settings: Server) -> bool:
    from paceline.access.gate import is_loopback

    return settings.require_keys or not (settings.insecure or is_loopback(settings.host))
