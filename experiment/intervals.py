"""Default intervals of a run's measurements."""

from __future__ import annotations


def default_interval(budget: int, parts: int, low: int, high: int) -> int:
    """A part of the budget, rounded down to 1, 2 or 5 times a power of ten, from `low` to `high`.

    A short run thus has curves of about as many points as a long one. `low` bounds what measuring costs.
    """
    part = max(budget // parts, 1)
    power = 10 ** (len(str(part)) - 1)
    plain = max(factor * power for factor in (1, 2, 5) if factor * power <= part)
    return min(max(plain, low), high)
