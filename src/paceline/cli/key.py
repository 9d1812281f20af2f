"""`paceline key`: make, list and revoke the keys that callers need.

Writes the key file itself, whose lock is its own, and then tells the owner, if one runs, to read it
again: keys change within 100 ms in a running server, and without one all the same.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from paceline.cli.config import STATE_HELP, state_directory
from paceline.cli.showing import help_without_command
from paceline.config import Server

if TYPE_CHECKING:
    from paceline.access.keys import Key

app = typer.Typer(
    help="Make, list and revoke the keys that callers need.",
    rich_markup_mode=None,
    invoke_without_command=True,
    callback=help_without_command,
)

State = Annotated[str | None, typer.Option(help=STATE_HELP)]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for, such as the caller's name.")],
    role: Annotated[
        Literal["client", "admin"],
        typer.Option(help="client may infer, call LLMs, read metrics; admin may do everything."),
    ] = "client",
    models: Annotated[
        str | None,
        typer.Option(
            help="The LLMs it may call, such as gpt-4o,claude-*; by default all there are.",
            show_default=False,
        ),
    ] = None,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Make a key and show it, this once.

    Example: paceline key create mobile-app --role client
    """
    from paceline.app import key_file
    from paceline.clock import RealClock

    state = state_directory(state)
    allowed = [] if models is None else [each.strip() for each in models.split(",")]
    key, secret = key_file(Server(state=state)).create(name, role, RealClock().wall(), allowed)
    _tell_owner(state)
    if as_json:
        print(msgspec.json.encode({**_shown(key), "key": secret}).decode())
    else:
        only = f", for {', '.join(key.models)} alone" if key.models else ""
        print(
            f"{secret}\n\nThis is {key.name}'s key, role {key.role}{only}. It is not shown again."
        )


@app.command("list")
def list_keys(state: State = None, as_json: Json = False) -> None:
    """List the keys there are; never the secrets, which are not kept.

    Example: paceline key list
    """
    from paceline.app import key_file

    keys = key_file(Server(state=state_directory(state))).load()
    if as_json:
        print(msgspec.json.encode([_shown(key) for key in keys]).decode())
        return
    for key in keys:
        shown = _shown(key)
        only = f"  ({', '.join(key.models)})" if key.models else ""
        print(f"{shown['id']}  {shown['role']:6}  {shown['created']}  {shown['name']}{only}")
    if not keys:
        print("There is no key yet. `paceline key create NAME` makes one.")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's name or id.")],
    state: State = None,
    as_json: Json = False,
) -> None:
    """Take a key back: whoever uses it is refused from now on.

    Example: paceline key revoke mobile-app
    """
    from paceline.app import key_file

    state = state_directory(state)
    gone = key_file(Server(state=state)).revoke(key)
    _tell_owner(state)
    if as_json:
        print(msgspec.json.encode(_shown(gone)).decode())
    else:
        print(f"{gone.name} ({gone.id}) is revoked.")


def _shown(key: "Key") -> dict[str, Any]:
    created = datetime.fromtimestamp(key.created_unix_s, UTC).strftime("%Y-%m-%d %H:%M")
    shown = {"id": key.id, "name": key.name, "role": key.role, "created": created}
    return {**shown, "models": key.models} if key.models else shown


def _tell_owner(state: str) -> None:
    from paceline.web.owner_call import call_owner

    call_owner(Path(state), "POST", "/local/reload-keys")
