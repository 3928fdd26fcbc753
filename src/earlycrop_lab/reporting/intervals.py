"""95 % intervals of means and of their differences, from few values (Student, 1908; Welch, 1947)."""

from collections.abc import Sequence
from math import inf, sqrt
from statistics import fmean, variance

from scipy.special import stdtrit

Interval = tuple[float, float]
LEVEL = 0.95


def welch(a: Sequence[float], b: Sequence[float]) -> Interval:
    """Welch's interval of mean(a) − mean(b); (−∞, ∞) with one value on a side.

    Degrees of freedom by Satterthwaite: (u + v)² / (u² / (n − 1) + v² / (m − 1)), u and v the squared standard errors.

    >>> low, high = welch([1.0, 2.0, 3.0], [0.0, 1.0, 2.0])  # of equal size and variance: Student's, with df 4
    >>> round(low, 4), round(high, 4)
    (-1.267, 3.267)
    """
    if min(len(a), len(b)) < 2:
        return -inf, inf
    centre, u, v = fmean(a) - fmean(b), variance(a) / len(a), variance(b) / len(b)
    if u + v == 0:
        return centre, centre
    return _around(centre, u + v, (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1)))


def student(values: Sequence[float]) -> Interval:
    """Student's interval of the mean, x̄ ± t · s / √n; (−∞, ∞) with one value.

    >>> low, high = student([1.0, 2.0, 3.0])  # df 2: 2 ± 4.3027 / √3
    >>> round(low, 4), round(high, 4)
    (-0.4841, 4.4841)
    """
    if len(values) < 2:
        return -inf, inf
    return _around(fmean(values), variance(values) / len(values), len(values) - 1)


def within(interval: Interval, bounds: Interval) -> Interval:
    """An interval clipped to bounds: an accuracy is never above one.

    >>> within((0.9, 1.2), (0.0, 1.0))
    (0.9, 1.0)
    """
    return max(interval[0], bounds[0]), min(interval[1], bounds[1])


def _around(centre: float, squared_error: float, freedom: float) -> Interval:
    half = float(stdtrit(freedom, (1 + LEVEL) / 2)) * sqrt(squared_error)
    return centre - half, centre + half
