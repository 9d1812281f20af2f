"""A plot of shares: a row for each cell, a mark for each contender; SVG that stands alone."""

from collections.abc import Mapping, Sequence
from html import escape

ROW = 18
LEFT = 190
WIDTH = 560
TOP = 64
RIGHT = 40
MARKS = (
    ("#0b7a75", '<circle cx="{x}" cy="{y}" r="5" fill="{color}"/>'),
    (
        "#5a6acf",
        '<rect x="{x0}" y="{y0}" width="9" height="9" fill="none" stroke="{color}" '
        'stroke-width="1.6"/>',
    ),
    (
        "#b3261e",
        '<path d="M{x0} {y0}l9 9m0-9l-9 9" stroke="{color}" stroke-width="1.6" fill="none"/>',
    ),
)


def dots(title: str, names: Sequence[str], rows: Mapping[str, Sequence[float]]) -> str:
    """`names` of at most three contenders; of each row their shares, from 0 to 1."""
    height = TOP + ROW * len(rows) + 36
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" '
        f'height="{height}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    for place, name in enumerate(names):
        x = float(LEFT + 190 * place)
        parts += [_mark(place, x, 42), f'<text x="{x + 10}" y="46">{escape(name)}</text>']
    for tenth in range(0, 11, 2):
        x = _at(tenth / 10)
        parts.append(f'<path d="M{x} {TOP - 6}V{height - 30}" stroke="#ddd"/>')
        parts.append(f'<text x="{x}" y="{height - 14}" text-anchor="middle">{tenth * 10} %</text>')
    for number, (label, shares) in enumerate(rows.items()):
        y = TOP + ROW * number + ROW // 2
        parts.append(f'<text x="{LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<path d="M{LEFT} {y}H{LEFT + WIDTH}" stroke="#eee"/>')
        for place in reversed(range(len(shares))):
            parts.append(_mark(place, _at(shares[place]), y))
    return "\n".join([*parts, "</svg>", ""])


def _at(share: float) -> float:
    return round(LEFT + WIDTH * min(1.0, max(0.0, share)), 1)


def _mark(place: int, x: float, y: float) -> str:
    color, shape = MARKS[place]
    return shape.format(x=x, y=y, x0=x - 4.5, y0=y - 4.5, color=color)
