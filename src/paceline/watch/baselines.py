"""Baselines in files: one for each name and model, under `baselines/` in the state directory.

A file is replaced whole, so that a reader finds the old one or the new one. What a baseline says
is `analysis/baseline.py`'s business. Called by `paceline report`, which asks a server for the value
and keeps it itself: nothing that serves writes here.
"""

import re
from pathlib import Path

import msgspec

from paceline.processes.state_dir import make_directory, refusal, write_whole
from paceline.terms.errors import LimitReached, Misuse, NotFound, StateUnusable
from paceline.terms.limits import BASELINE_BYTES, BASELINE_NAME_CHARS, BASELINES
from paceline.watch.analysis.finding import Baseline

FOLDER = "baselines"
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{BASELINE_NAME_CHARS - 1}}}")


def check(name: str) -> None:
    """Before anything is measured for it."""
    if not NAME.fullmatch(name):
        raise Misuse(
            "a baseline's name is not usable",
            value=name,
            remedy=f"Use up to {BASELINE_NAME_CHARS} letters, digits, dashes or underscores.",
        )


def save(state: Path, name: str, baseline: Baseline) -> Path:
    """In place of the one that had this name."""
    place = _place(state, name, baseline.model)
    try:
        make_directory(place.parent)
        if not place.exists() and len([*place.parent.glob("*.json")]) >= BASELINES:
            raise LimitReached(
                "there are as many baselines as may be",
                value=BASELINES,
                remedy=f"Remove some in {place.parent}, or use a name again.",
            )
        write_whole(place, msgspec.json.encode(baseline))
    except OSError as error:
        raise refusal(state, error) from error
    return place


def load(state: Path, name: str, model: str) -> Baseline:
    place = _place(state, name, model)
    try:
        with place.open("rb") as file:
            content = file.read(BASELINE_BYTES + 1)
    except FileNotFoundError:
        kept = sorted(each.stem.partition(".")[2] for each in place.parent.glob(f"{model}.*.json"))
        there = f"There are {', '.join(kept)}; or save" if kept else "Save"
        raise NotFound(
            f"{model} has no such baseline",
            value=name,
            remedy=f"{there} one: `paceline report {model} --save-baseline {name}`.",
        ) from None
    except OSError as error:
        raise refusal(state, error) from error
    try:
        if len(content) > BASELINE_BYTES:
            raise msgspec.DecodeError("it is too long")
        return msgspec.json.decode(content, type=Baseline)
    except msgspec.DecodeError as error:
        raise StateUnusable(
            f"a baseline cannot be read: {error}",
            value=str(place),
            remedy=f"Save it again: `paceline report {model} --save-baseline {name}`.",
        ) from error


def _place(state: Path, name: str, model: str) -> Path:
    check(name)
    if not NAME.fullmatch(model):  # it comes from a command line
        raise Misuse(
            "no model has such a name", value=model, remedy="Name one that the server serves."
        )
    return state / FOLDER / f"{model}.{name}.json"
