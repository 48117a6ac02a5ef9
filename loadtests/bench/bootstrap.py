"""How far a figure of a few rounds can be trusted: percentile bootstrap. Pure, and the same for the same values."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
SEED = 1
"""Fixed: the same rounds always give the same interval."""


class Interval(NamedTuple):
    """Where a value lies."""

    low: float
    high: float


def median_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Where the median of such values lies: of `RESAMPLES` samples drawn from them, as many and with replacement.

    With few values it is wide and coarse, never narrower than they are: it ends at some of them, or midway between two.

    Args:
        values: of rounds that are independent of each other.
        confidence: share of the resampled medians that lie within.

    Raises:
        ValueError: fewer than two values, which say nothing about how far they scatter.
    """
    if len(values) < 2:
        raise ValueError(f"{len(values)} values: expected at least 2")
    drawn = np.random.default_rng(SEED).choice(np.asarray(values, dtype=float), size=(RESAMPLES, len(values)))
    outside = (1 - confidence) / 2
    low, high = np.quantile(np.median(drawn, axis=1), (outside, 1 - outside))
    return Interval(float(low), float(high))
