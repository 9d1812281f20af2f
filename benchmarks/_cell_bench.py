"""What `./bench gateway`, `serving` and `goodput` have in common, which measure cell by cell: what
they can be asked, where cells and results of such a run lie, and what goes before it.

What a cell is stands in `_cells.py`; what is measured is each one's own.
"""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks import record
from benchmarks._cells import Cells, Key
from benchmarks.peers.environment import cache_folder


def options(
    name: str, doc: str | None, *, only: str, runs: int, seconds: float, quick_s: float
) -> argparse.ArgumentParser:
    """`only` says what `--only` selects from."""
    parser = argparse.ArgumentParser(
        prog=f"./bench {name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    quick = f"one run, {quick_s:g} s a cell, kept apart"
    parser.add_argument("--resume", action="store_true", help="keep the cells that are there")
    parser.add_argument("--only", default="", help=f"{only}, by commas")
    parser.add_argument("--runs", type=int, default=runs)
    parser.add_argument("--seconds", type=float, default=seconds, help="of each cell")
    parser.add_argument("--quick", action="store_const", const=quick_s, default=0.0, help=quick)
    parser.add_argument("--report", action="store_true", help="of the cells that are there")
    peers = cache_folder() / "peers"
    parser.add_argument("--peers", type=Path, default=peers, help="their environments")
    return parser


def add_install(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--install", action="store_true", help="make the environments and stop")


def add_models(parser: argparse.ArgumentParser) -> None:
    models = cache_folder() / "models"
    parser.add_argument("--models", type=Path, default=models, help="the model files")


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    asked = parser.parse_args()
    if asked.quick:
        asked.runs, asked.seconds = 1, asked.quick
    return asked


def kept(asked: argparse.Namespace, path: Path) -> Cells:
    return Cells(_quick(asked) / "cells" / path.name if asked.quick else path)


def results(asked: argparse.Namespace) -> Path:
    return _quick(asked) if asked.quick else record.RESULTS


def _quick(asked: argparse.Namespace) -> Path:
    folder: Path = asked.peers.parent
    return folder / "quick"


def measured(
    asked: argparse.Namespace, cells: Cells, wants: Callable[[Key], bool], run: Callable[[], None]
) -> None:
    """Runs it, unless only the report is asked for. What it `wants` is measured anew."""
    if asked.report:
        return
    if not shutil.which("wrk"):
        raise SystemExit("wrk is missing; install the Debian package wrk")
    if not asked.resume:
        cells.discard(wants)
    run()
