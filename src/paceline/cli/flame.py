"""A flame graph: what was seen of stacks, one box for each function called from the same place, as
wide as its share. Drawn as SVG of our own, the outermost on top; a click on a box makes it as wide
as the page, one on the topmost goes back. Called by `profile_page.py`.

After Gregg, "The flame graph", CACM 59(6), 2016.
"""

import base64
import hashlib
from collections.abc import Iterable, Iterator
from html import escape
from typing import NamedTuple

from paceline.observe.stacks import Stacks
from paceline.terms.amounts import percent
from paceline.terms.limits import PROFILE_BOXES

ROW = 19
"""Of the height of the page, as it counts pixels."""

OURS = "paceline."
RUNTIMES = ("onnxruntime.", "numpy.")
LEGEND = (("Paceline", "ours"), ("runtime", "runs"), ("Python and others", "others"))

SCRIPT = """
const graph = document.querySelector('svg.flame');
const boxes = [...graph.querySelectorAll('svg')].map(box => {
  const [row, from, wide] = box.dataset.at.split(' ').map(Number);
  return {box, row, from, wide};
});
graph.addEventListener('click', event => {
  const to = boxes.find(each => each.box === event.target.closest('svg[data-at]'));
  if (!to) return;
  const end = to.from + to.wide, near = 1e-6;
  for (const {box, row, from, wide} of boxes) {
    const within = row >= to.row && from >= to.from - near && from + wide <= end + near;
    const above = row < to.row && from <= to.from + near && from + wide >= end - near;
    box.style.display = within || above ? '' : 'none';
    box.setAttribute('x', above ? '0%' : (from - to.from) / to.wide * 100 + '%');
    box.setAttribute('width', above ? '100%' : wide / to.wide * 100 + '%');
  }
});
"""

_DIGEST = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = f"script-src 'sha256-{_DIGEST}'"
"""What a browser may run on the page: this script, and no other."""

STYLE = """
.flames { grid-column: 1 / -1; }
svg.flame { display: block; width: 100%; margin-top: .75rem; overflow: hidden; cursor: pointer; }
svg.flame rect { fill: var(--style); stroke: var(--card); stroke-width: 1; rx: 3px; }
svg.flame text { font: .75rem ui-monospace, monospace; fill: var(--ink); pointer-events: none; }
svg.flame svg:hover rect { stroke: var(--ink); }
.ours { --style: color-mix(in srgb, var(--in-time) 45%, var(--card)); }
.runs { --style: color-mix(in srgb, var(--too-late) 50%, var(--card)); }
.others { --style: color-mix(in srgb, var(--left) 35%, var(--card)); }
"""


class Box(NamedTuple):
    row: int
    began: int
    samples: int
    name: str


class _Branch:
    __slots__ = ("branches", "samples")

    def __init__(self) -> None:
        self.samples = 0
        self.branches: dict[str, _Branch] = {}


def flame(stacks: Stacks) -> str:
    """Of threads that worked; nothing where none did."""
    whole = _tree(stacks)
    if not whole.samples:
        return ""
    boxes = [Box(0, 0, whole.samples, "all threads"), *_boxes(whole, 1, 0)]
    if len(boxes) > PROFILE_BOXES:
        least = sorted((each.samples for each in boxes), reverse=True)[PROFILE_BOXES]
        boxes = [each for each in boxes if each.samples > least]
    height = ROW * (1 + max(each.row for each in boxes))
    drawn = "".join(_drawn(each, whole.samples) for each in boxes)
    return f'<svg class="flame" height="{height}" role="img">{drawn}</svg>'


def _tree(stacks: Stacks) -> _Branch:
    whole = _Branch()
    for each in stacks.stacks:
        if each.waits:
            continue
        at = whole
        at.samples += each.samples
        names = (stacks.frames[place] for place in each.frames)
        for name in (stacks.threads[each.thread].name, *names):
            at = at.branches.setdefault(name, _Branch())
            at.samples += each.samples
    return whole


def _boxes(branch: _Branch, row: int, began: int) -> Iterator[Box]:
    """By name, so that the same stacks are the same picture."""
    for name, below in sorted(branch.branches.items()):
        yield Box(row, began, below.samples, name)
        yield from _boxes(below, row + 1, began)
        began += below.samples


def _drawn(box: Box, whole: int) -> str:
    left, wide = box.began / whole, box.samples / whole
    return (
        f'<svg class="{_style(box)}" x="{left:.4%}" y="{box.row * ROW}" width="{wide:.4%}" '
        f'height="{ROW}" data-at="{box.row} {left:.8f} {wide:.8f}">'
        f"<title>{escape(box.name)}: {percent(wide)}</title>"
        f'<rect width="100%" height="100%"/><text x="4" y="13">{escape(_short(box))}</text></svg>'
    )


def _style(box: Box) -> str:
    if box.name.startswith(OURS):
        return "ours"
    return "runs" if box.name.startswith(RUNTIMES) else "others"


def _short(box: Box) -> str:
    """Without the package that all of ours are in."""
    return box.name.removeprefix(OURS)


def legend() -> str:
    listed: Iterable[str] = (
        f'<li><i class="swatch {style}"></i>{name}</li>' for name, style in LEGEND
    )
    return f'<ul class="legend">{"".join(listed)}</ul>'
