"""Signals are functions of their key and the tick, the same everywhere."""

from itertools import pairwise

import pytest

from simulator.signals import (
    HOURS,
    UNIT,
    Clamped,
    Counter,
    Daily,
    Jitter,
    Leak,
    SawTooth,
    Scaled,
    Signal,
    Spike,
    Step,
    Sum,
    Times,
    Walk,
    key_of,
    mix,
    noise,
)

TICKS = (0, 1, 7, 8, 500, 10**9)
DAY = Daily(hour_ticks=3600, shift_ticks=9 * 3600)
GOLDEN: dict[str, tuple[Signal, list[int]]] = {
    "walk": (Walk(5), [21793, 21398, 19029, 18635, 37196, 30589]),
    "jitter": (Jitter(5, 16), [48827, 41865, 7116, 1689, 23860, 14566]),
    "daily": (DAY, [45000, 45002, 45019, 45022, 46388, 58888]),
    "step": (Step(5), [46783, 46783, 46783, 46783, 46783, 30273]),
    "spike": (Spike(5, 60, 7, 9, 20, 1), [0, 0, 1, 1, 0, 0]),
    "saw-tooth": (SawTooth(45), [0, 1456, 10194, 11650, 7281, 14563]),
    "leak": (Leak(1234), [0, 1234, 8638, 9872, 617000, 1234000000000]),
    "counter": (Counter(1000, 3000, DAY, Jitter(5)), [272, 3822, 21527, 25417, 1545900, 2663212902077]),
    "sum": (Clamped(Sum(10, Scaled(Walk(5), 1000), Times(Leak(1), 3)), 0, 2000), [342, 339, 321, 318, 2000, 2000]),
}
"""Each kind of signal, and its values at TICKS in a container that runs since tick 0."""


def test_splitmix64_matches_its_reference() -> None:
    """The first outputs for the seed 1234567 are those of the published splitmix64."""
    assert [noise(1234567, counter) for counter in (1, 2, 3, 4, 5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_noise_is_mix_of_the_counter() -> None:
    """The written-out form of the hot function is the plain one."""
    assert noise(99, 7) == mix(99 + 7 * 0x9E3779B97F4A7C15)


def test_keys_depend_on_order() -> None:
    """Swapped parts give another key."""
    assert key_of(1, 2, 3) != key_of(1, 3, 2)
    assert key_of(1, 2) != key_of(1, 2, 0)


@pytest.mark.parametrize("name", GOLDEN)
def test_signals_are_golden(name: str) -> None:
    """The values of each kind are these on every machine and every Python version."""
    signal, values = GOLDEN[name]

    assert [signal.at(tick, 0) for tick in TICKS] == values


def test_a_walk_stays_in_range_and_moves_in_small_steps() -> None:
    """A walk never leaves [0, UNIT), covers a good part of it, and does not jump."""
    walk = Walk(11)
    values = [walk.at(tick) for tick in range(4096)]

    assert min(values) >= 0
    assert max(values) < UNIT
    assert max(values) - min(values) > UNIT // 3
    assert max(abs(b - a) for a, b in pairwise(values)) < UNIT // 16


def test_a_day_is_low_at_night_and_high_before_noon() -> None:
    """The curve goes through each full hour's value, in equal steps between them, and repeats every 24 hours."""
    day = Daily(hour_ticks=3600, shift_ticks=0)

    assert [day.at(hour * 3600) for hour in range(24)] == list(HOURS)
    assert day.at(10 * 3600 + 1800) == (HOURS[10] + HOURS[11]) // 2
    assert day.at(5 * 86_400 + 123) == day.at(123)
    assert min(HOURS) < UNIT // 8
    assert max(HOURS) < UNIT


@pytest.mark.parametrize("hour_ticks", [1, 7, 3600, 36_000])
def test_the_sum_of_a_day_is_the_sum_of_its_ticks(hour_ticks: int) -> None:
    """`total` never falls, and is the area under the curve, however long an hour is."""
    day = Daily(hour_ticks, shift_ticks=5 * hour_ticks)
    ticks = range(0, 24 * hour_ticks, max(1, hour_ticks // 7))

    assert all(day.total(b) >= day.total(a) for a, b in pairwise(ticks))
    mean = (day.total(24 * hour_ticks) - day.total(0)) / (24 * hour_ticks)
    assert mean == sum(HOURS) / 24


def test_a_step_keeps_its_level_between_its_jumps() -> None:
    """Over ten thousand ticks there are a few levels, each for 2048 ticks."""
    levels = [Step(3).at(tick) for tick in range(10_240)]

    assert len(set(levels)) == 5
    assert all(len(set(levels[start : start + 2048])) == 1 for start in range(0, 10_240, 2048))


def test_a_job_keeps_time_and_a_spike_does_not() -> None:
    """Without slack each period has its spike at the same place; with slack and a mask some have one, somewhere."""
    job, spike = Spike(1, 60, 0, 5, 0, 0), Spike(1, 60, 0, 5, 55, 3)
    begins = [tick for tick in range(1, 60_000) if spike.at(tick) > spike.at(tick - 1)]

    assert all(job.at(tick) == (tick % 60 < 5) for tick in range(600))
    assert 150 < len(begins) < 350  # one period of four
    assert len({tick % 60 for tick in begins}) > 40
    assert sum(spike.at(tick) for tick in range(60_000)) == 5 * len(begins)


def test_a_saw_tooth_and_a_leak_begin_with_their_container() -> None:
    """The heap of a container that was restarted is empty; nothing else ends a leak."""
    assert [SawTooth(4).at(100 + age, 100) for age in range(6)] == [
        0,
        UNIT // 4,
        UNIT // 2,
        3 * UNIT // 4,
        0,
        UNIT // 4,
    ]
    assert [Leak(7).at(tick, 100) for tick in (100, 101, 200)] == [0, 7, 700]


def test_a_counter_is_steeper_at_busy_hours() -> None:
    """It never falls, and counts more before noon than at night."""
    counter = Counter(10, 1000, Daily(3600, 0), Jitter(8))
    values = [counter.at(tick, -500) for tick in range(0, 86_400, 60)]

    assert all(b >= a for a, b in pairwise(values))
    assert counter.at(11 * 3600, 10 * 3600) > 4 * counter.at(5 * 3600, 4 * 3600)
