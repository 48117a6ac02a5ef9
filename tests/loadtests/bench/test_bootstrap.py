"""How far a median of a few rounds can be trusted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.bench.bootstrap import median_interval
from loadtests.bench.figures import median


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=12))
def test_the_interval_lies_among_the_values_around_their_median(values: list[float]) -> None:
    """It never claims what no round showed."""
    low, high = median_interval(values)

    assert min(values) <= low <= median(values) <= high <= max(values)


def test_the_same_rounds_give_the_same_interval() -> None:
    """Nothing is left to chance; the order of the rounds and who calls first do not move it far."""
    values = [1.0, 1.1, 0.9, 1.3, 1.05]

    assert median_interval(values) == median_interval(values)


def test_equal_rounds_leave_no_doubt() -> None:
    """Without scatter the interval is a point."""
    assert median_interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


def test_more_rounds_and_less_confidence_make_it_narrower() -> None:
    """Of five rounds 95 % reach to the outermost ones; of many of the same kind they do not."""
    few = [1.0, 2.0, 3.0, 4.0, 5.0]
    low, high = median_interval(few)
    assert (low, high) == (1.0, 5.0)

    low, high = median_interval(few * 20)
    assert 2.0 <= low <= 3.0 <= high <= 4.0
    assert high - low < 4.0
    sure, unsure = median_interval(few, confidence=0.95), median_interval(few, confidence=0.5)
    assert unsure.high - unsure.low < sure.high - sure.low


def test_the_share_of_medians_within_is_the_one_asked_for() -> None:
    """For two values the resampled medians are known: a quarter is the lower, half the middle, a quarter the upper one."""
    assert median_interval([0.0, 1.0], confidence=0.95) == (0.0, 1.0)
    assert median_interval([0.0, 1.0], confidence=0.4) == (0.5, 0.5)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_one_round_says_nothing_about_scatter(values: list[float]) -> None:
    """It is an error, not an interval of no width."""
    with pytest.raises(ValueError, match="expected at least 2"):
        median_interval(values)
