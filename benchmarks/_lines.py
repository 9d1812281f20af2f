"""A plot of lines over a common axis, one panel for each subject; SVG that stands alone."""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 280, 200
LEFT, TOP, BOTTOM = 56, 74, 52
COLORS = ("#0b7a75", "#5a6acf", "#b3261e", "#8a6d00", "#6b7280")
DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2")
TICKS = 4

Points = Sequence[tuple[float, float]]


def lines(title: str, across: str, panels: Mapping[str, Mapping[str, Points]]) -> str:
    """`panels` are by their headings; names have the same style in all of them."""
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    styles = {name: place % len(COLORS) for place, name in enumerate(names)}
    parts = [f'<text x="12" y="24" font-size="15" font-weight="600">{escape(title)}</text>']
    x = 12.0
    for name in names:
        parts.append(_path([(x, 42), (x + 22, 42)], styles[name]))
        parts.append(f'<text x="{x + 28:g}" y="46">{escape(name)}</text>')
        x += 44 + 7.5 * len(name)
    for place, (heading, panel) in enumerate(panels.items()):
        parts += _panel(heading, across, panel, styles, place * (WIDTH + LEFT + 12) + LEFT)
    width = max(int(x), len(panels) * (WIDTH + LEFT + 12) + 24)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
        f'height="{TOP + HEIGHT + BOTTOM}" font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *parts, "</svg>", ""])


def _panel(
    heading: str, across: str, panel: Mapping[str, Points], styles: Mapping[str, int], left: float
) -> list[str]:
    points = [point for each in panel.values() for point in each]
    most_x = max((x for x, _ in points), default=1.0) or 1.0
    most_y = max((y for _, y in points), default=1.0) or 1.0
    bottom = TOP + HEIGHT
    parts = [f'<text x="{left}" y="{TOP - 8}" font-weight="600">{escape(heading)}</text>']
    for tick in range(TICKS + 1):
        y = bottom - HEIGHT * tick / TICKS
        parts.append(f'<path d="M{left} {y:g}h{WIDTH}" stroke="#ddd"/>')
        value = f"{most_y * tick / TICKS:.3g}"
        parts.append(f'<text x="{left - 6}" y="{y + 4:g}" text-anchor="end">{value}</text>')
    for at in sorted({x for x, _ in points}):
        x = left + WIDTH * at / most_x
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{at:g}</text>')
    middle = left + WIDTH / 2
    parts.append(
        f'<text x="{middle:g}" y="{bottom + 36}" text-anchor="middle">{escape(across)}</text>'
    )
    for name, each in panel.items():
        scaled = [(left + WIDTH * x / most_x, bottom - HEIGHT * y / most_y) for x, y in each]
        parts.append(_path(scaled, styles[name]))
    return parts


def _path(points: Points, style: int) -> str:
    drawn = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return (
        f'<path d="M{drawn}" fill="none" stroke="{COLORS[style]}" stroke-width="2" '
        f'stroke-dasharray="{DASHES[style]}"/>'
    )
