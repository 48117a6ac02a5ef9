"""The chart of the generator's samples, and what an answer tells otherwise."""

import random
from typing import Any

import numpy as np
import pytest

from loadtests.answers import CHART_VALUES, Chart
from loadtests.chart_truth import Truth, differences, truth
from simulator.samples import SAMPLE, Sample, Samples
from tests.support.charts import SECOND, T0, compute, random_samples


def arrays(rows: list[Sample]) -> Samples:
    """The same as one array."""
    found = np.zeros(len(rows), SAMPLE)
    for place, row in enumerate(rows):
        values: list[Any] = [value or 0 for value in row[2:]]
        found[place] = (*row[:2], *values, sum((value is None) << bit for bit, value in enumerate(row[2:])))
    return found


def answer(rows: list[Sample], since: int, points: int, step: int) -> Chart:
    """What the API must answer, by the plain computation that the storage's tests use."""
    buckets = {bucket.at: bucket for bucket in compute(rows, since, since + points * step, step)}
    at = [since + place * step for place in range(points)]
    columns = {name: [getattr(buckets.get(moment), name, None) for moment in at] for name in CHART_VALUES}
    samples = [buckets[moment].samples if moment in buckets else 0 for moment in at]
    return Chart(step_seconds=step / 1e6, at=at, samples=samples, **columns)


@pytest.mark.parametrize("step_seconds", [5, 60, 240])
def test_the_truth_is_that_of_the_plain_computation(step_seconds: int) -> None:
    """Counters that reset, nulls, pauses longer than a rate bears, empty points: the same chart, whatever the samples."""
    chance, step = random.Random(step_seconds), step_seconds * SECOND
    since = T0 // step * step + 2 * step
    for _ in range(30):
        rows = random_samples(chance, 1)
        expected = truth(arrays(rows), [since + place * step for place in range(40)], step)
        assert differences(answer(rows, since, 40, step), expected, 0) == ""


def test_a_point_that_differs_is_named() -> None:
    """A sample too few, a value that is off by a millionth, and one that is missing; not before the time that counts."""
    rows = [Sample(1, T0 + i * SECOND, 5.0, 1000, 100 * i, 7) for i in range(100)]
    since, step = T0, 10 * SECOND

    def told(name: str, place: int, value: Any, from_us: int = 0) -> str:
        chart = answer(rows, since, 10, step)
        getattr(chart, name)[place] = value
        return differences(chart, expected, from_us)

    expected: Truth = truth(arrays(rows), [since + place * step for place in range(10)], step)
    assert told("samples", 3, 9) == f"samples at {since + 3 * step} are 9: expected 10"
    assert told("cpu_mean", 4, 5.000005).startswith(f"cpu_mean at {since + 4 * step} is 5.0000")
    assert told("rx_per_second", 5, None) == f"rx_per_second at {since + 5 * step} is nan: expected 100"
    assert told("mem_max", 0, 1) == f"mem_max at {since} is 1: expected 1000"
    assert told("mem_max", 0, 1, from_us=since + step) == ""
