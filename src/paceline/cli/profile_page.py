"""A profile as one page of HTML that needs nothing else: nothing is loaded, light and dark.

Looks like the page of a simulation, whose style it takes from `evidence/report.py`. One small
script of ours zooms the flame graph, and the page lets no other run. Called by `profile.py`.
"""

from collections.abc import Iterator
from html import escape

import paceline
from paceline.cli import flame
from paceline.cli.profiled import Table, headline, tables
from paceline.evidence import report as looks
from paceline.web.profile_api import ProfileView

OPENING = '<!doctype html>\n<html lang="en">\n<meta name="generator" content="paceline profile">\n'
"""By which a page is known as one of these."""

NOTES = {
    "stacks": "Shares are of samples: those of few are rough.",
    "memory": "A look at one moment.",
    "operators": "Times are onnxruntime's, in whole microseconds: those of short calls are rough.",
}
SHOWN = 100
"""Rows of a table."""

STYLE = """
td.share { position: static; width: 20%; min-width: 6rem; }
td.share i {
  display: block; position: static; height: .75rem; width: calc(100% * var(--share));
  background: var(--in-time); opacity: .6; border-radius: .125rem;
}
.tables > * { grid-column: 1 / -1; }
tbody th { font: .875rem ui-monospace, monospace; overflow-wrap: anywhere; }
"""


def page(view: ProfileView) -> str:
    title = {"stacks": "Profile", "memory": "Memory", "operators": "Operators"}[view.of]
    title = f"{title} of {view.whose}"
    return (
        f"{OPENING}"
        '<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta http-equiv="Content-Security-Policy" '
        f"content=\"default-src 'none'; style-src 'unsafe-inline'; {flame.POLICY}\">\n"
        f"<title>{escape(title)} – Paceline</title>\n"
        f"<style>{looks.STYLE}{flame.STYLE}{STYLE}</style>\n"
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="short">{escape(headline(view))}</p></header>\n'
        f'<main>{_flames(view)}<div class="tables">{"".join(map(_card, tables(view, SHOWN)))}'
        "</div></main>\n"
        f"<footer>Made by Paceline {escape(paceline.__version__)}. {NOTES[view.of]}</footer>\n"
        f"{_script(view)}</html>\n"
    )


def _flames(view: ProfileView) -> str:
    if view.stacks is None:
        return ""
    drawn = flame.flame(view.stacks)
    if not drawn:
        return '<p class="card">No thread worked while it was looked at.</p>\n'
    return (
        '<figure class="card flames"><figcaption><h2>Where the time of working threads went</h2>'
        '<p class="note">A box is a function, called by the one above it, as wide as its share. '
        f"Click it to look closer, and the topmost to go back.</p></figcaption>{flame.legend()}"
        f"{drawn}</figure>\n"
    )


def _script(view: ProfileView) -> str:
    return "" if view.stacks is None else f"<script>{flame.SCRIPT}</script>\n"


def _card(table: Table) -> str:
    heads = "".join(f"<th scope=col>{escape(name)}</th>" for name in table.head)
    bars = "<th scope=col></th>" if table.shares else ""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<section class="card"><h2>{escape(table.title)}</h2>{note}<div class="wide"><table>'
        f"<thead><tr>{heads}{bars}</tr></thead><tbody>{''.join(_rows(table))}</tbody></table>"
        "</div></section>"
    )


def _rows(table: Table) -> Iterator[str]:
    for place, (first, *others) in enumerate(table.rows):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        bar = ""
        if table.shares:
            bar = f'<td class="share"><i style="--share:{table.shares[place]:.4f}"></i></td>'
        yield f"<tr><th scope=row>{escape(first)}</th>{cells}{bar}</tr>"
