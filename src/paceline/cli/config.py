"""`paceline config`: check, show and write the settings file.

Reads what `paceline up` reads, short of its command line. It asks no server and changes none.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from paceline.cli.showing import help_without_command
from paceline.config import DEFAULT_FILE, ModelSettings, llm
from paceline.config.fields import dotted, fields, leaves, toml
from paceline.terms.errors import DiskFull, Misuse
from paceline.terms.plan import Catalogue

if TYPE_CHECKING:
    from paceline.config.served import Only
    from paceline.config.source import Loaded, Source

CONFIG_HELP = "The settings file; by default ./paceline.toml, if there is one."
STATE_HELP = "The server's state directory; by default that of ./paceline.toml, or ./.paceline."

app = typer.Typer(
    help="Check, show and write the settings file.",
    rich_markup_mode=None,
    invoke_without_command=True,
    callback=help_without_command,
)

WIDEST = 50
"""Longer values push where they come from to the right."""

PROVIDERS = ("openai",)
ROUTES = ("gpt-4o",)
PRICES = ("openai/gpt-4o",)
CHANNELS = ("ops",)
"""Those in the file that `init` writes, as examples."""
EXAMPLE_USD = {
    "input": 2.5,
    "output": 10.0,
    "cached_input": 1.25,
    "cache_write": 2.5,
    "cache_write_1h": 2.5,
}

NAMED = ("providers", "routes", "prices", "channels")
"""Of these, to name one is to have one."""

File = Annotated[Path | None, typer.Argument(help=CONFIG_HELP, show_default=False)]
NewFile = Annotated[
    Path | None,
    typer.Argument(help="The file to write; by default ./paceline.toml.", show_default=False),
]
Config = Annotated[Path | None, typer.Option("--config", help="The same as FILE.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


def settings_source(
    file: Path | None, flags: Mapping[str, object], only: "Only | None" = None
) -> "Source":
    """Where this process gets its settings; `flags` are fields of `Server`, None is not given.
    `only` is the model that is served without a file."""
    from paceline.app import SHIPPED
    from paceline.config.source import Source
    from paceline.observe.probes import container
    from paceline.serve.knobs import catalogue

    return Source(
        file=file,
        environ=dict(os.environ),
        flags=flags,
        catalogue=catalogue,
        models=tuple(SHIPPED),
        cores=container().cores,
        only=only,
    )


def state_directory(state: str | None) -> str:
    """What `--state` says; without it, where a server started here keeps its state."""
    if state is not None:  # also when the file is broken
        return state
    return settings_source(None, {}).load().settings.server.state


@app.command()
def check(file: File = None, config: Config = None, as_json: Json = False) -> None:
    """Say whether a server would start with this file, and with the environment as it is.

    Example: paceline config check paceline.toml
    """
    loaded = settings_source(_one(file, config), {}).load()
    if as_json:
        print(msgspec.json.encode({"ok": True, "file": _file(loaded)}).decode())
    elif loaded.file is None:
        print(f"OK: there is no {DEFAULT_FILE} here, so the defaults hold")
    else:
        print(f"OK: {loaded.file}")


@app.command()
def show(file: File = None, config: Config = None, as_json: Json = False) -> None:
    """Show every setting, with where it comes from.

    Example: paceline config show
    """
    loaded = settings_source(_one(file, config), {}).load()
    if as_json:
        rows = [
            {"name": name, "value": value, "origin": str(loaded.origins[name])}
            for name, value in loaded.values()
        ]
        print(msgspec.json.encode({"file": _file(loaded), "settings": rows}).decode())
        return
    shown = {name: toml(value) for name, value in loaded.values()}
    names, values = max(map(len, shown)), min(WIDEST, max(map(len, shown.values())))
    for name, text in shown.items():
        print(f"{name:{names}}  {text:{values}}  {loaded.origins[name]}")


@app.command()
def init(file: NewFile = None, config: Config = None, as_json: Json = False) -> None:
    """Write a file with every setting and its meaning, all commented out. Overwrites nothing.

    Example: paceline config init
    """
    from paceline.app import SHIPPED
    from paceline.serve.knobs import catalogue

    path = _one(file, config) or Path(DEFAULT_FILE)
    _write(path, "\n".join(_lines(catalogue(SHIPPED), tuple(SHIPPED))) + "\n")
    if as_json:
        print(msgspec.json.encode({"file": str(path)}).decode())
    else:
        print(f"{path} is written. It changes nothing until you take a # away.")


def _one(file: Path | None, config: Path | None) -> Path | None:
    if file is not None and config is not None and file != config:
        raise Misuse(
            "two files are named", value=f"{file}, {config}", remedy="Name it once, as you like."
        )
    return file or config


def _file(loaded: "Loaded") -> str | None:
    return None if loaded.file is None else str(loaded.file)


def _lines(catalogue: Catalogue, models: tuple[str, ...]) -> Iterator[str]:
    yield "# Settings of Paceline. `paceline config check` says whether they are right, and"
    yield "# `paceline config show` which of them hold, and why. A # makes a line a comment."
    section = None
    for (*above, name), leaf in leaves(
        catalogue, models, PROVIDERS, ROUTES, PRICES, CHANNELS
    ).items():
        yield ""
        if above != section:
            section = above
            free = above[0] in (
                "providers",
                "routes",
                "prices",
                "channels",
            )  # to name one is to have one
            yield f"{'# ' * free}[{dotted(above)}]"
            if above[-1] == "pins":
                yield f"# {fields(ModelSettings)['pins'].meaning}"
                yield ""
        yield f"# {leaf.meaning}"
        yield f"# It takes {leaf.takes}."
        yield f"# {name} = {toml(_example(above, name, leaf.default))}"


def _example(above: list[str], name: str, default: object) -> object:
    """The default, but where a section would mean nothing with it."""
    match above:
        case ["providers", provider]:
            return getattr(llm.defaults(provider), name)
        case ["routes", model] if name == "targets":
            return [f"{PROVIDERS[0]}/{model}"]
        case ["prices", _]:
            return EXAMPLE_USD[name]
        case ["channels", _] if name == "url":
            return "https://example.org/hook"
    return default


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x") as file:
            try:
                file.write(text)
                file.flush()
            except OSError:
                path.unlink()  # half a file would pass for a whole one
                raise
    except FileExistsError as error:
        raise Misuse(
            "there is a file already",
            value=str(path),
            remedy="Edit that one, or name another: `paceline config init FILE`.",
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                "no space is left for the settings file",
                value=str(path),
                remedy="Free some space, or name another place: `paceline config init FILE`.",
            ) from error
        raise Misuse(
            f"the settings file cannot be written: {error.strerror}",
            value=str(path),
            remedy="Name another place: `paceline config init FILE`.",
        ) from error
