"""`paceline up`: serve until told to stop."""

from pathlib import Path
from typing import Annotated, Any

import typer

from paceline.cli.config import CONFIG_HELP, settings_source
from paceline.cli.started import say
from paceline.config import Server
from paceline.config.fields import fields
from paceline.observe.log import Format, Level

FIELDS = fields(Server)


def option(name: str, *spelt: str) -> Any:
    """No option has a default of its own: what is not given is asked of environment and file."""
    field = FIELDS[name]
    default = "" if isinstance(field.default, bool) else f"  [default: {field.default}]"
    return typer.Option(*spelt, help=f"{field.meaning}{default}")


def up(
    host: Annotated[str | None, option("host")] = None,
    port: Annotated[int | None, option("port")] = None,
    state: Annotated[str | None, option("state")] = None,
    fronts: Annotated[int | None, option("fronts")] = None,
    drain_s: Annotated[float | None, option("drain_s")] = None,
    require_keys: Annotated[bool | None, option("require_keys")] = None,
    insecure: Annotated[bool | None, option("insecure")] = None,
    tls_cert: Annotated[str | None, option("tls_cert")] = None,
    tls_key: Annotated[str | None, option("tls_key")] = None,
    log_format: Annotated[Format | None, option("log_format")] = None,
    log_level: Annotated[Level | None, option("log_level")] = None,
    access_log: Annotated[bool | None, option("access_log")] = None,
    reload_on_save: Annotated[bool | None, option("reload_on_save")] = None,
    usd_h: Annotated[float | None, option("usd_h")] = None,
    feedback_answers: Annotated[int | None, option("feedback_answers")] = None,
    drift_rows_s: Annotated[float | None, option("drift_rows_s")] = None,
    no_budget: Annotated[bool | None, option("no_budget", "--no-budget/--budget")] = None,
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
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "log_format": log_format,
        "log_level": log_level,
        "access_log": access_log,
        "reload_on_save": reload_on_save,
        "usd_h": usd_h,
        "feedback_answers": feedback_answers,
        "drift_rows_s": drift_rows_s,
        "no_budget": no_budget,
    }
    loaded = settings_source(config, flags).load()
    run_owner(loaded, lambda address, takes: say(loaded, address, takes, as_json))
