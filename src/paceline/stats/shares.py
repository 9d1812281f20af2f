"""Shares of a count: what one lies between, and whether two differ by more than chance.

Wilson's interval keeps what it says for few events and for shares near 0 and 1, where the usual one
does not (Brown, Cai and DasGupta, 2001). Two shares are compared by arcsines, whose scatter does
not depend on the share; how far these are apart is Cohen's h. Pure. Called by reports and alerts.
"""

import math

Z = 1.959964
"""of a normal distribution, 95 % lies within so many deviations of its mean"""


def wilson(events: float, count: float, z: float = Z) -> tuple[float, float] | None:
    """None of nothing."""
    if count <= 0:
        return None
    share, z2 = events / count, z * z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    reach = z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    low, high = max(0.0, middle - reach), min(1.0, middle + reach)
    return low if events else 0.0, high if events < count else 1.0


def farthest_up(
    before: float, of_before: float, after: float, of_after: float, z: float = 3.29
) -> float:
    """By how much the second of two shares is larger at most: below 0 it is smaller for certain.
    One in two thousand is not, where nothing differs. One event of each kind is added, as Agresti
    and Caffo do, or shares of 0 and 1 would look sure."""
    first = (before * of_before + 1) / (of_before + 2)
    second = (after * of_after + 1) / (of_after + 2)
    scatter = first * (1 - first) / (of_before + 2) + second * (1 - second) / (of_after + 2)
    return second - first + z * math.sqrt(scatter)


def apart(before: float, after: float) -> float:
    """Cohen's h of two shares: 0.2 is small, 0.5 plain to see, 0.8 large; positive where the second
    is larger."""
    return 2 * (math.asin(math.sqrt(after)) - math.asin(math.sqrt(before)))


def chance(before: float, of_before: float, after: float, of_after: float) -> float:
    """How likely two shares of so many are at least as far apart where nothing differs. Three
    eighths of an event are added to either side (Anscombe), or shares of 0 would look sure."""
    first = (before * of_before + 3 / 8) / (of_before + 3 / 4)
    second = (after * of_after + 3 / 8) / (of_after + 3 / 4)
    scatter = math.sqrt(1 / (of_before + 0.5) + 1 / (of_after + 0.5))
    return math.erfc(abs(apart(first, second)) / scatter / math.sqrt(2))
