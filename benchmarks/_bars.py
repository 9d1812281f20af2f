"""A plot of groups of bars, each group on a scale of its own; SVG that stands alone."""

from collections.abc import Mapping
from html import escape

ROW = 18
LEFT = 160
WIDTH = 480
RIGHT = 110
TOP = 44
HEADING = 30
FIRST, OTHERS = "#0b7a75", "#9aa5b1"


def bars(title: str, groups: Mapping[str, Mapping[str, float]], emphasized: str) -> str:
    """Of each group the values by name, the largest first; one name has a colour of its own."""
    parts = [f'<text x="12" y="24" font-size="15" font-weight="600">{escape(title)}</text>']
    y = TOP
    for heading, values in groups.items():
        parts.append(f'<text x="12" y="{y + 18}" font-weight="600">{escape(heading)}</text>')
        y += HEADING
        most = max(values.values(), default=0.0) or 1.0
        for name, value in sorted(values.items(), key=lambda item: -item[1]):
            width = round(WIDTH * value / most, 1)
            color = FIRST if name == emphasized else OTHERS
            parts += [
                f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{LEFT}" y="{y + 2}" width="{width}" height="{ROW - 4}" fill="{color}"/>',
                f'<text x="{LEFT + width + 6:.1f}" y="{y + 13}">{_number(value)}</text>',
            ]
            y += ROW
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" '
        f'height="{y + 16}" font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>", ""])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
