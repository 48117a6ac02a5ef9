"""Signals are functions of (seed, agent, container, tick), the same everywhere."""

from itertools import pairwise

from simulator.signals import UNIT, ContainerSignals, Walk, character_of, key_of, mix, noise

GOLDEN = [
    (None, 281534464, 3976, 4541),
    (25.39, 280797184, 34529, 11183),
    (26.04, 280068096, 48137, 26783),
    (19.82, 277299200, 19859376, 9907248),
    (15.58, 241721344, 1714800006, 855705686),
]
GOLDEN_WALK = [21793, 21398, 19029, 18635, 37196, 30589]


def signals_of(
    seed: int, agent: int, container: int, cores: int = 4, memory_limit_bytes: int | None = None
) -> ContainerSignals:
    """The series of one container."""
    return ContainerSignals(character_of(seed, agent, container, cores, memory_limit_bytes))


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


def test_values_are_golden() -> None:
    """The values of one container are these on every machine and every Python version."""
    signals = signals_of(seed=42, agent=7, container=3, cores=8, memory_limit_bytes=None)

    assert [tuple(signals.at(tick, 0)) for tick in (0, 1, 2, 1000, 86_400)] == GOLDEN


def test_a_walk_is_golden() -> None:
    """A walk's values are these on every machine and every Python version."""
    assert [Walk(5).at(tick) for tick in (0, 1, 7, 8, 500, 10**9)] == GOLDEN_WALK


def test_any_tick_can_be_asked_for_in_any_order() -> None:
    """A value does not depend on what was asked before."""
    forwards = signals_of(1, 2, 3, 4, None)
    values = {tick: forwards.at(tick, 0) for tick in range(600)}

    backwards = signals_of(1, 2, 3, 4, None)

    assert {tick: backwards.at(tick, 0) for tick in reversed(range(600))} == values
    assert signals_of(1, 2, 3, 4, None).at(599, 0) == values[599]


def test_a_walk_stays_in_range_and_moves_in_small_steps() -> None:
    """A walk never leaves [0, UNIT), covers a good part of it, and does not jump."""
    walk = Walk(11)
    values = [walk.at(tick) for tick in range(4096)]

    assert min(values) >= 0
    assert max(values) < UNIT
    assert max(values) - min(values) > UNIT // 3
    assert max(abs(b - a) for a, b in pairwise(values)) < UNIT // 16


def test_network_counters_never_fall() -> None:
    """Rx and tx rise from tick to tick in every container that has them."""
    for container in range(40):
        signals = signals_of(1, 1, container, 4, None)
        samples = [signals.at(tick, 0) for tick in range(300)]
        for before, after in pairwise(samples):
            if before.rx is not None and after.rx is not None:
                assert after.rx >= before.rx
            if before.tx is not None and after.tx is not None:
                assert after.tx >= before.tx


def test_counters_begin_again_at_a_restart() -> None:
    """A container that runs since tick 500 has counters as small as at its first start, and no CPU in its first sample."""
    signals = signals_of(1, 1, 1, 4, None)
    before, first, second = signals.at(499, 0), signals.at(500, 500), signals.at(501, 500)

    assert before.rx is not None
    assert first.rx is not None
    assert first.rx < before.rx // 100
    assert first.cpu is None
    assert second.cpu is not None


def test_some_containers_use_the_network_of_their_host() -> None:
    """Among many containers a few have no counters, most have."""
    without = sum(signals_of(1, 1, container, 4, None).at(5, 0).rx is None for container in range(400))

    assert 5 < without < 80


def test_limits_hold() -> None:
    """CPU stays within the host's cores, memory within the container's limit."""
    limit = 40 << 20
    for container in range(20):
        signals = signals_of(3, 1, container, 1, limit)
        for tick in range(1, 200):
            sample = signals.at(tick, 0)
            assert sample.cpu is not None
            assert 0 <= sample.cpu <= 100
            assert 0 < sample.mem <= limit
