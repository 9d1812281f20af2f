"""Student's t: how likely a difference is by chance, and how far it may reach.

Written out, for numpy has none and SciPy is 100 MB. By the continued fraction of the incomplete
beta function (Abramowitz and Stegun, 26.5.8 and 26.7.1). Pure. Called by what compares means here.
"""

import math

TERMS = 300
"""of the continued fraction at most; some 20 are needed"""

TINY = 1e-300
CLOSE = 1e-14


def two_sided(t: float, freedom: float) -> float:
    """How likely a value at least as far from 0 as `t` is, to either side."""
    assert freedom > 0, f"there are no {freedom} degrees of freedom"
    if math.isnan(t):
        return 1.0
    if math.isinf(t):
        return 0.0
    return _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def reach(confidence: float, freedom: float) -> float:
    """The t beyond which to either side only 1 - `confidence` lies."""
    assert 0 < confidence < 1, f"a confidence lies between 0 and 1, not at {confidence}"
    low, high = 0.0, 1.0
    while two_sided(high, freedom) > 1 - confidence and high < 1e12:
        low, high = high, high * 2
    for _ in range(80):
        middle = (low + high) / 2
        if two_sided(middle, freedom) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _beta(x: float, a: float, b: float) -> float:
    """The incomplete beta function, as a share of the whole."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1) / (a + b + 2):  # where the fraction of the other side needs fewer terms
        return 1.0 - _beta(1.0 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x)
    log_front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_front) * _fraction(x, a, b) / a


def _fraction(x: float, a: float, b: float) -> float:
    """Evaluated from the front, by Lentz's method."""
    numerator, denominator = 1.0, 1.0 / _kept(1.0 - (a + b) * x / (a + 1))
    value = denominator
    for m in range(1, TERMS):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            denominator = 1.0 / _kept(1.0 + step * denominator)
            numerator = _kept(1.0 + step / numerator)
            value *= numerator * denominator
        if abs(numerator * denominator - 1.0) < CLOSE:
            break
    return value


def _kept(value: float) -> float:
    """Away from zero, which is divided by."""
    return value if abs(value) > TINY else TINY
