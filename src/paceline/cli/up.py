"""`paceline up`: serve until told to stop."""

from typing import Annotated

import msgspec
import typer

from paceline.config import DEFAULT_STATE, Settings, default_fronts
from paceline.observe.log import Format, Level

DEFAULTS = Settings()


def up(
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than loopback needs a key.")
    ] = DEFAULTS.host,
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 takes a free one.")
    ] = DEFAULTS.port,
    state: Annotated[
        str, typer.Option(help="Directory for what must outlive the process.")
    ] = DEFAULT_STATE,
    fronts: Annotated[
        int | None,
        typer.Option(help="Processes that answer requests.", show_default="cores - 1, 1 to 8"),
    ] = None,
    drain_s: Annotated[
        float, typer.Option(help="Seconds that requests in hand get to finish when it stops.")
    ] = DEFAULTS.drain_s,
    require_keys: Annotated[
        bool, typer.Option("--require-keys", help="Ask for a key on loopback too.")
    ] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Answer other machines without a key.")
    ] = False,
    log_format: Annotated[
        Format, typer.Option(help="Lines for people or for machines.")
    ] = DEFAULTS.log_format,
    log_level: Annotated[
        Level, typer.Option(help="The least important lines to write.")
    ] = DEFAULTS.log_level,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log each request.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Say what runs as one line of JSON.")
    ] = False,
) -> None:
    """Start the server: page, API and metrics on one port. Ctrl-C drains and stops it.

    Example: paceline up --port 9000
    """
    from paceline.app import run_owner
    from paceline.observe.probes import container

    settings = Settings(
        host=host,
        port=port,
        state=state,
        fronts=default_fronts(container().cores) if fronts is None else fronts,
        drain_s=drain_s,
        require_keys=require_keys,
        insecure=insecure,
        log_format=log_format,
        log_level=log_level,
        access_log=access_log,
    )
    run_owner(settings, lambda address: _say(settings, address, as_json))


def _say(settings: Settings, address: str, as_json: bool) -> None:
    import os

    import paceline
    from paceline.serve import digits

    if as_json:
        what = {
            "address": address,
            "pid": os.getpid(),
            "state": settings.state,
            "models": [digits.NAME],
            "version": paceline.__version__,
        }
        print(msgspec.json.encode(what).decode(), flush=True)
        return
    row = msgspec.json.encode(digits.SAMPLE_ROW).decode()
    key = " -H 'x-api-key: pl_...'" if needs_key(settings) else ""
    print(
        f"Paceline {paceline.__version__} answers at {address}\n"
        f"\n"
        f"  model  {digits.NAME}: handwritten digits, 64 numbers in (the shipped example)\n"
        f"  page   {address}/\n"
        f"  state  {settings.state}, {settings.fronts} front{'s' * (settings.fronts > 1)}\n"
        f"\n"
        f"  try    curl -s {address}/predict/{digits.NAME}{key} "
        f"-H 'content-type: application/json' -d '{row}'\n"
        f"  stop   Ctrl-C here, or: curl -X POST {address}/api/shutdown{key}\n",
        flush=True,
    )


def needs_key(settings: Settings) -> bool:
    from paceline.access.gate import is_loopback

    return settings.require_keys or not (settings.insecure or is_loopback(settings.host))
