"""Writes docs/reference/*.md, and what deploy/ has for Prometheus and Grafana, from the tables in
the code, so that neither can say something else.

Without arguments it writes; `--check` names the pages that are not what the code says now. It
explains nothing: guides do. Called by `./check docs` and `./check --write docs`.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import typer

import deployed
from paceline.access.gate import FEEDBACK
from paceline.cli.main import command_line
from paceline.config import AT_RELOAD, MODEL_AT_START
from paceline.config.fields import dotted, leaves, toml, variable
from paceline.config.source import flag
from paceline.serve.knobs import catalogue
from paceline.terms import limits as bounds
from paceline.terms.errors import EXIT_CODES, TABLE
from paceline.terms.metric import METRICS
from paceline.web import (
    alerts_api,
    calls_api,
    control,
    drift_api,
    feedback_api,
    history_api,
    plan_api,
    profile_api,
    quality_api,
    said_api,
    settings_api,
    traces_api,
)
from paceline.web.openapi import ACCESS, Document, document
from paceline.web.operations import JSON, AnyDeclaration

ROOT = Path(__file__).resolve().parent.parent
FOLDER = "docs/reference"
LIMITS = "src/paceline/terms/limits.py"
MADE = "<!-- Written by `./check --write docs` from {source}; edit that. -->"


def errors() -> str:
    rows = [(f"`{code}`", row.http, row.exit, row.meaning) for code, row in TABLE.items()]
    exits = [(code, meaning) for code, meaning in EXIT_CODES.items()]
    return page(
        "Errors and exit codes",
        "src/paceline/terms/errors.py",
        "Every error says what happened, with which value, and what to do. As JSON it has the\n"
        "fields `error` (what happened), `code`, `remedy` and, where there is one, `value`.",
        table(("code", "HTTP", "exit", "meaning"), rows),
        "## Exit codes",
        table(("exit", "meaning"), exits),
    )


def metrics() -> str:
    rows = [
        (
            f"`{metric.name}`",
            metric.kind,
            metric.unit,
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.help,
        )
        for metric in METRICS
    ]
    return page(
        "Metrics",
        "src/paceline/terms/metric.py",
        "What `GET /metrics` shows, in the Prometheus text format. A sketch is exposed as a\n"
        "summary: its quantiles have a relative error of at most 1 %.",
        table(("name", "kind", "unit", "labels", "meaning"), rows),
    )


def limits() -> str:
    source = (ROOT / LIMITS).read_text()
    rows = [
        (f"`{name}`", f"{getattr(bounds, name):,.12g}".replace(",", " "), meaning)
        for name, meaning in constants(ast.parse(source))
    ]
    return page(
        "Limits",
        LIMITS,
        "Every bound on a queue, a body, a retry or a wait. The end of a name is its unit.",
        table(("name", "value", "what it bounds"), rows),
    )


def constants(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Each constant with the text below it; `./check docs` finds those without one."""
    for node, below in pairwise(module.body):
        match node, below:
            case (
                ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(meaning))),
            ):
                yield name, meaning


def settings() -> str:
    rows = []
    some = ["NAME"]
    for names, leaf in leaves(catalogue(["MODEL"]), ["MODEL"], *[some] * 4).items():
        of_server = names[0] == "server"
        option = f"`{flag(leaf.name)}`" if of_server else ""
        at_reload = {"server": AT_RELOAD, "models": {leaf.name} - MODEL_AT_START}
        followed = names[0] in ("alerts", "rules", "channels", "traces")
        when = "reload" if followed or leaf.name in at_reload.get(names[0], ()) else "start"
        rows.append(
            (
                f"`{dotted(names)}`",
                leaf.takes,
                f"`{toml(leaf.default)}`",
                leaf.meaning,
                f"`{variable(names)}`",
                option,
                when,
            )
        )
    return page(
        "Settings",
        "src/paceline/config/ and src/paceline/serve/knobs.py",
        "What `paceline.toml`, the environment and the options of `paceline up` may say; the\n"
        "[guide](../guides/settings.md) tells how. `MODEL` stands for the name of a model, `NAME`\n"
        "for that of a provider, of a channel, of a route, which is a model that LLM calls ask\n"
        "for, or of a price: PROVIDER/MODEL. Rules are on where `enabled` is true, and all of\n"
        "them with `alerts.thresholds`. A knob without a pin starts from its default, and others\n"
        "may turn it. The last column says when a new value counts: at a reload, or at the next\n"
        "start.",
        table(("setting", "takes", "default", "meaning", "variable", "option", "at"), rows),
    )


WIDTH = 1000
"""Help is not wrapped for a page, however wide the terminal is that it is made in."""


def cli() -> str:
    root = typer.main.get_command(command_line())
    parts = [
        part for path, command in commands("paceline", root) for part in section(path, command)
    ]
    return page(
        "Commands",
        "src/paceline/cli/",
        "What `--help` says of each command. Exit codes are in [errors.md](errors.md).",
        *parts,
    )


def commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """A command and what is below it; typer's classes are its own, hence Any."""
    yield path, command
    if hasattr(command, "list_commands"):
        context = command.context_class(command, info_name=path)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if not child.hidden:
                yield from commands(f"{path} {name}", child)


def section(path: str, command: Any) -> Iterator[str]:
    context = command.context_class(command, info_name=path, terminal_width=WIDTH)
    yield f"## {path}"
    if command.help:
        yield inspect.cleandoc(command.help)
    yield f"```\n{command.get_usage(context)}\n```"
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    shown = [(f"`{name}`", meaning) for name, meaning in filter(None, records)]
    if shown:
        yield table(("argument", "meaning"), shown)


def api() -> str:
    apis = (
        control,
        plan_api,
        settings_api,
        calls_api,
        said_api,
        traces_api,
        history_api,
        alerts_api,
        profile_api,
        feedback_api,
        drift_api,
        quality_api,
    )
    declared = tuple(each for api in apis for each in api.DECLARED)
    described = document(declared, version="")
    calls = {f"`{each.method} {each.path}`": each for each in declared}
    parts = [part for call, each in calls.items() for part in operation(call, each, described)]
    schemas = described.components["schemas"].items()
    return page(
        "Control API",
        "`DECLARED` in src/paceline/web/control.py, plan_api.py, settings_api.py, calls_api.py, "
        "said_api.py, traces_api.py, history_api.py, alerts_api.py, profile_api.py, "
        "feedback_api.py, drift_api.py and quality_api.py",
        "A running server describes the same as an OpenAPI document, at `/api/openapi.json`.",
        ACCESS,
        table(
            ("call", "role", "what"),
            [
                (call, "client" if it.path == FEEDBACK else "admin", it.summary)
                for call, it in calls.items()
            ],
        ),
        *parts,
        "## Types",
        *(part for name, schema in schemas for part in fields(name, schema)),
    )


def operation(call: str, declared: AnyDeclaration, described: Document) -> Iterator[str]:
    told = described.paths[declared.path][declared.method.lower()]
    yield f"## {call}"
    yield declared.summary
    if "parameters" in told:
        rows = [
            (f"`{each['name']}`", spoken(each["schema"], each["required"]), each["description"])
            for each in told["parameters"]
        ]
        yield table(("parameter", "form", "meaning"), rows)
    if declared.body is not None:
        (form,) = told["requestBody"]["content"].values()
        yield f"Body: {spoken(form['schema'])}."
    answer = told["responses"][str(declared.status)]
    ((media_type, form),) = answer["content"].items()
    said = (
        spoken(form["schema"]) if media_type == JSON else f"`{media_type}`, {answer['description']}"
    )
    yield f"Answer: {declared.status}, {said}."
    if declared.errors:
        yield f"Errors of its own: {', '.join(f'`{each.code}`' for each in declared.errors)}."


def fields(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### {name}"
    if "description" in schema:
        yield " ".join(schema["description"].split())
    if "properties" in schema:
        required = schema.get("required", ())
        rows = [
            (f"`{field}`", spoken(it, field in required), meaning(it))
            for field, it in schema["properties"].items()
        ]
        yield table(("field", "form", "meaning"), rows)
    else:
        yield f"One of: {spoken(schema)}."


def meaning(schema: dict[str, Any]) -> str:
    """What is said of a field, or of the one thing it may be beside null."""
    said = [it.get("description", "") for it in (schema, *schema.get("anyOf", ()))]
    return next(filter(None, said), "")


def spoken(schema: dict[str, Any], required: bool = True) -> str:
    """A schema in words, as far as ours go."""
    words = _kind(schema)
    bounds = (
        ("minimum", "≥"),
        ("maximum", "≤"),
        ("minLength", "length ≥"),
        ("maxLength", "length ≤"),
    )
    words += "".join(f", {sign} {schema[name]}" for name, sign in bounds if name in schema)
    if required:
        return words
    default = schema.get("default")
    return f"{words}; optional" if default is None else f"{words}; default `{literal(default)}`"


def _kind(schema: dict[str, Any]) -> str:
    match schema:
        case {"$ref": str(where)}:
            name = where.rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"anyOf": [*kinds]}:
            return " or ".join(spoken(kind) for kind in kinds)
        case {"enum": [*values]}:
            return " or ".join(f"`{literal(value)}`" for value in values)
        case {"type": "array", "items": dict(each)}:
            return f"list of {spoken(each)}"
        case {"type": "object", "additionalProperties": dict(each)}:
            return f"object of {spoken(each)}"
        case {"type": str(kind)}:
            return kind
    return "anything"


def literal(value: object) -> str:
    return msgspec.json.encode(value).decode()


def page(title: str, source: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", MADE.format(source=source), *parts]) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


PAGES: dict[str, Callable[[], str]] = {
    f"{FOLDER}/api.md": api,
    f"{FOLDER}/cli.md": cli,
    f"{FOLDER}/errors.md": errors,
    f"{FOLDER}/limits.md": limits,
    f"{FOLDER}/metrics.md": metrics,
    f"{FOLDER}/settings.md": settings,
    "deploy/prometheus-rules.yml": deployed.prometheus,
    "deploy/grafana-dashboard.json": deployed.grafana,
}


def main(*arguments: str) -> int:
    stale = []
    for name, write in PAGES.items():
        path, text = ROOT / name, write()
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in arguments:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    print(*stale, sep="\n")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
