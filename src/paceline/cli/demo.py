"""`paceline demo train`: makes the shipped example again and says whether it came out the same.

Not a trainer for anybody's own models. Registered by the command line's entry module.
"""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from paceline.cli.showing import help_without_command
from paceline.serve import digits

app = typer.Typer(
    help="Make the shipped example again.",
    rich_markup_mode=None,
    invoke_without_command=True,
    callback=help_without_command,
)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Directory to write digits.onnx and its card to.")] = (
        Path("digits")
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Train the handwritten-digit example from scikit-learn's bundled data (extra: sklearn).

    Example: paceline demo train --out /tmp/digits
    """
    from paceline.serve.digits.train import train as train_digits

    made = train_digits(out, (lambda stage: None) if as_json else _say)
    same = made.sha256 == digits.card().sha256
    if as_json:
        shown = {**msgspec.to_builtins(made), "path": str(out), "same_as_shipped": same}
        print(msgspec.json.encode(shown).decode())
        return
    print(f"accuracy  {made.accuracy:.2%} ({made.correct} of {made.test_rows} unseen rows)")
    print(f"size      {made.size_bytes} bytes, {out / digits.MODEL_PATH.name}")
    print(f"sha256    {made.sha256}")
    print(f"shipped   {_comparison(made, same)}")


def _comparison(made: digits.Card, same: bool) -> str:
    if same:
        return "the same file, byte for byte"
    shipped = digits.card()
    changed = [
        f"{name} {version} (shipped: {shipped.versions.get(name)})"
        for name, version in made.versions.items()
        if version != shipped.versions.get(name)
    ]
    why = f"; other versions: {', '.join(changed)}" if changed else ""
    return f"another file, of accuracy {shipped.accuracy:.2%}{why}"


def _say(stage: str) -> None:
    print(f"… {stage}", file=sys.stderr, flush=True)
