"""What HdrHistogram's Python library takes long for."""

import numpy as np
from hdrh.histogram import HdrHistogram


def mean_value(histogram: HdrHistogram) -> float:
    """The mean, in the histogram's unit, exactly as its own `get_mean_value` has it; 0 without values.

    That one walks all 24,000 buckets in Python (about 50 ms); a result asks for hundreds of means.
    """
    total = 0
    for index in np.flatnonzero(np.ctypeslib.as_array(histogram.counts)).tolist():
        lowest = histogram.get_value_from_index(index)
        width = histogram.get_highest_equivalent_value(lowest) - lowest + 1
        total += histogram.get_count_at_index(index) * (lowest + (width >> 1))
    return total / count if (count := histogram.get_total_count()) else 0.0
