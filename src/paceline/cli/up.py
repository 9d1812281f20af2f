"""`paceline up`: serve until told to stop."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from paceline.cli.config import CONFIG_HELP, settings_source
from paceline.config import Server
from paceline.config.fields import fields
from paceline.observe.log import Format, Level

if TYPE_CHECKING:
    from paceline.config.source import Loaded

FIELDS = fields(Server)


def _option(name: str) -> Any:
    """No option has a default of its own: what is not given is asked of environment and file."""
    field = FIELDS[name]
    default = "" if isinstance(field.default, bool) else f"  [default: {field.default}]"
    return typer.Option(help=f"{field.meaning}{default}")


def up(
    host: Annotated[str | None, _option("host")] = None,
    port: Annotated[int | None, _option("port")] = None,
    state: Annotated[str | None, _option("state")] = None,
    fronts: Annotated[int | None, _option("fronts")] = None,
    drain_s: Annotated[float | None, _option("drain_s")] = None,
    require_keys: Annotated[bool | None, _option("require_keys")] = None,
    insecure: Annotated[bool | None, _option("insecure")] = None,
    log_format: Annotated[Format | None, _option("log_format")] = None,
    log_level: Annotated[Level | None, _option("log_level")] = None,
    access_log: Annotated[bool | None, _option("access_log")] = None,
    reload_on_save: Annotated[bool | None, _option("reload_on_save")] = None,
    config: Annotated[Path | None, typer.Option(help=CONFIG_HELP)] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say what runs as one line of JSON.")
    ] = False,
) -> None:
    """Start the server: page, API and metrics on one port. Ctrl-C drains and stops it.

    What no option says, the environment, paceline.toml and the defaults do, in this order.

    Example: paceline up --port 9000
    """
    from paceline.app import run_owner

    flags = {
        "host": host,
        "port": port,
        "state": state,
        "fronts": fronts,
        "drain_s": drain_s,
        "require_keys": require_keys,
        "insecure": insecure,
        "log_format": log_format,
        "log_level": log_level,
        "access_log": access_log,
        "reload_on_save": reload_on_save,
    }
    loaded = settings_source(config, flags).load()
    run_owner(loaded, lambda address: _say(loaded, address, as_json))


def _say(loaded: "Loaded", address: str, as_json: bool) -> None:
    import os

    import paceline
    from paceline.serve import digits

    settings = loaded.settings.server
    if as_json:
        what = {
            "address": address,
            "pid": os.getpid(),
            "state": settings.state,
            "config": None if loaded.file is None else str(loaded.file),
            "models": [digits.NAME],
            "version": paceline.__version__,
        }
        print(msgspec.json.encode(what).decode(), flush=True)
        return
    row = msgspec.json.encode(digits.SAMPLE_ROW).decode()
    config = "" if loaded.file is None else f"  config {loaded.file}\n"
    key = " -H 'x-api-key: pl_...'" if needs_key(settings) else ""
    print(
        f"Paceline {paceline.__version__} answers at {address}\n"
        f"\n"
        f"  model  {digits.NAME}: handwritten digits, 64 numbers in (the shipped example)\n"
        f"  page   {address}/\n"
        f"  state  {settings.state}, {settings.fronts} front{'s' * (settings.fronts > 1)}\n"
        f"{config}"
        f"\n"
        f"  try    curl -s {address}/predict/{digits.NAME}{key} "
        f"-H 'content-type: application/json' -d '{row}'\n"
        f"  stop   Ctrl-C here, or: curl -X POST {address}/api/shutdown{key}\n",
        flush=True,
    )


def needs_key(settings: Server) -> bool:
    from paceline.access.gate import is_loopback

    return settings.require_keys or not (settings.insecure or is_loopback(settings.host))
