"""`paceline serve MODEL`: serve one model without a settings file, until told to stop."""

from typing import Annotated

import typer

from paceline.cli.up import option
from paceline.observe.log import Format, Level


def serve(
    model: Annotated[
        str, typer.Argument(help="An ONNX file, or a callable of Python: my_model.py:predict.")
    ],
    slo: Annotated[
        str | None,
        typer.Option(help="How long 99 of 100 requests may take, such as 30ms: its goal."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What callers name it; by default made of its file's name.")
    ] = None,
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Say what runs as one line of JSON.")
    ] = False,
) -> None:
    """Serve one model without a settings file, and hold it to an objective.

    What no option says, the environment and the defaults do; paceline.toml is not read.

    Example: paceline serve model.onnx --slo 30ms
    """
    from paceline.cli.serving import serve_one, source_of

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
    }
    source = source_of(model, name)
    serve_one(source, slo, flags, ("MODEL", "--slo"), as_json=as_json)
