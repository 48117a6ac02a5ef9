"""Profiles: what a fleet is mixed of, and what its containers are like."""

from collections import Counter
from itertools import pairwise

import pytest

from simulator.profiles import (
    DEFAULT_MIX,
    PROFILES,
    Character,
    ContainerSignals,
    MixError,
    Profile,
    Shares,
    character_of,
    checked_mix,
    mix_text,
    parse_mix,
)
from simulator.signals import key_of

HOUR = 3600
GOLDEN: dict[Profile, list[tuple[float | None, int, int | None, int | None]]] = {
    Profile.WEB: [
        (None, 327163904, 2701, 1798),
        (14.08, 329912320, 60499, 15200),
        (12.6, 386142208, 51674912, 15027852),
        (10.93, 373510144, 3748912019, 1090322162),
    ],
    Profile.DATABASE: [
        (None, 1421451264, 6758, 1625),
        (23.75, 1420390400, 151337, 13739),
        (20.16, 1415417856, 129261650, 13583308),
        (17.38, 1347784704, 9377677150, 985515569),
    ],
    Profile.WORKER: [
        (None, 412413952, 3599, 258),
        (30.53, 413429760, 80613, 2185),
        (23.54, 432300032, 68854371, 2161068),
        (17.42, 412315648, 4995245263, 156792885),
    ],
    Profile.CRON: [
        (None, 117248000, 18, 5),
        (41.74, 117190656, 156, 14),
        (0.13, 50282496, 90056, 13004),
        (41.78, 115044352, 7776087, 1123200),
    ],
    Profile.IDLE: [
        (None, 95744000, 18, 1),
        (0.24, 95653888, 403, 14),
        (0.21, 95334400, 345585, 15326),
        (0.25, 91594752, 25068128, 1112006),
    ],
    Profile.LEAKING: [
        (None, 153063424, 134, 1997),
        (28.95, 152956928, 3001, 16878),
        (26.5, 182702080, 2565007, 16686970),
        (22.87, 536870912, 186079493, 1210696842),
    ],
    Profile.CRASH_LOOPING: [
        (None, 135737344, 59, 228),
        (48.57, 135610368, 520, 562),
        (44.53, 135139328, 299186, 498163),
        (44.37, 129867776, 25833889, 43027204),
    ],
}
"""Samples of one container of each profile at the ticks 0, 1, 1000 and 86 400, running since tick 0."""


def character(profile: Profile, container: int = 3, agent: int = 7) -> Character:
    """A character of the seed 42, on a host of 8 cores, at one tick a second."""
    return character_of(profile, 42, agent, container, 8, 1_000_000)


def signals(profile: Profile, container: int = 3, agent: int = 7) -> ContainerSignals:
    """The series of one container."""
    return ContainerSignals(character(profile, container, agent))


@pytest.mark.parametrize("profile", PROFILES)
def test_values_are_golden(profile: Profile) -> None:
    """The values of one container are these on every machine and every Python version."""
    own = signals(profile)

    assert [tuple(own.at(tick, 0)) for tick in (0, 1, 1000, 86_400)] == GOLDEN[profile]


@pytest.mark.parametrize("profile", PROFILES)
def test_any_tick_can_be_asked_for_in_any_order(profile: Profile) -> None:
    """A value does not depend on what was asked before."""
    forwards, backwards = signals(profile), signals(profile)
    values = {tick: forwards.at(tick, 0) for tick in range(300)}

    assert {tick: backwards.at(tick, 0) for tick in reversed(range(300))} == values


@pytest.mark.parametrize("profile", PROFILES)
def test_counters_never_fall_and_limits_hold(profile: Profile) -> None:
    """Rx and tx rise from tick to tick, CPU stays within the host's cores and memory within the container's limit."""
    for container in range(8):
        own = character(profile, container)
        samples = [ContainerSignals(own).at(tick, 0) for tick in range(0, 3000, 10)]
        for before, after in pairwise(samples):
            assert (before.rx is None) == (after.rx is None) == (own.rx_rate is None)
            assert before.rx is None or after.rx is None or after.rx > before.rx
            assert before.tx is None or after.tx is None or after.tx > before.tx
        assert all(0 < sample.mem <= own.mem_max and sample.mem % 4096 == 0 for sample in samples)
        assert all(sample.cpu is not None and 0 <= sample.cpu <= 800 for sample in samples[1:])


def test_counters_begin_again_at_a_restart() -> None:
    """A container that runs since tick 500 has counters as small as at its first start, and no CPU in its first sample."""
    own = signals(Profile.WEB)
    before, first, second = own.at(499, 0), own.at(500, 500), own.at(501, 500)

    assert before.rx is not None
    assert first.rx is not None
    assert first.rx < before.rx // 100
    assert first.cpu is None
    assert second.cpu is not None


def test_profiles_are_what_they_are_called() -> None:
    """Idle containers idle, web follows the day, jobs keep time, leaks grow to the limit and only they do."""

    def cpu(profile: Profile, ticks: range) -> float:
        """The mean of fifty containers."""
        values = [
            signals(profile, container, agent=1).at(tick, -1).cpu or 0 for container in range(50) for tick in ticks
        ]
        return sum(values) / len(values)

    noon, night = range(2 * HOUR, 3 * HOUR, 97), range(18 * HOUR, 20 * HOUR, 97)
    idle, web = cpu(Profile.IDLE, noon), cpu(Profile.WEB, noon)
    assert idle < 1 < web
    assert web > 1.5 * cpu(Profile.WEB, night)
    leak = character(Profile.LEAKING)
    assert leak.loop is not None
    assert leak.memory_limit_bytes is not None
    end = ContainerSignals(leak).at(leak.loop.up_ticks, 0).mem
    assert end > leak.memory_limit_bytes * 0.98 > 2 * ContainerSignals(leak).at(0, 0).mem
    assert {profile for profile in PROFILES if character(profile).mem_leak} == {Profile.LEAKING}
    assert {profile for profile in PROFILES if character(profile).loop} == {Profile.LEAKING, Profile.CRASH_LOOPING}
    job = character(Profile.CRON)
    busy = [ContainerSignals(job).at(tick, -1).cpu or 0 for tick in range(job.spike_ticks)]
    assert min(busy[: job.spike_width]) > 10 * max(busy[job.spike_width :])


def test_some_containers_use_the_network_of_their_host() -> None:
    """Among many containers a few have no counters, most have."""
    without = sum(character(Profile.WEB, container).rx_rate is None for container in range(400))

    assert 5 < without < 80


def test_times_are_times_whatever_the_interval() -> None:
    """At five seconds a tick the same container has a fifth of the ticks in its periods, and five times the bytes in each."""
    fast, slow = (character_of(Profile.CRASH_LOOPING, 1, 1, 1, 4, interval) for interval in (1_000_000, 5_000_000))

    assert fast.loop is not None
    assert slow.loop is not None
    assert abs(fast.loop.period_ticks - 5 * slow.loop.period_ticks) <= 10
    assert fast.rx_rate is not None
    assert slow.rx_rate is not None
    assert abs(slow.rx_rate - 5 * fast.rx_rate) <= 5


@pytest.mark.parametrize("mix", [DEFAULT_MIX, {"web": 4, "idle": 2}, {"cron": 1}], ids=str)
def test_each_host_has_nearly_its_share(mix: dict[str, int]) -> None:
    """Over a fleet the shares are the weights, and no host is far from them."""
    shares, total = Shares(mix), sum(mix.values())
    hosts = [Counter(shares.of_host(key_of(1, agent), 10)) for agent in range(1, 301)]

    for number, profile in enumerate(PROFILES):
        due = 10 * mix.get(profile, 0) / total
        assert abs(sum(host[number] for host in hosts) / 300 - due) < 0.25
        assert all(abs(host[number] - due) < 2 for host in hosts)


def test_a_hosts_profiles_do_not_depend_on_how_many_it_has() -> None:
    """The first containers of a larger host are those of a smaller one."""
    shares = Shares(DEFAULT_MIX)

    assert shares.of_host(77, 100)[:10] == shares.of_host(77, 10)


def test_a_mix_is_read_and_told_in_one_order() -> None:
    """Text and table mean the same, in the order of the profiles."""
    assert parse_mix(" idle=2, web = 4") == checked_mix({"idle": 2, "web": 4}) == {"web": 4, "idle": 2}
    assert mix_text({"web": 4, "idle": 2}) == "web=4,idle=2"
    assert checked_mix(DEFAULT_MIX) == DEFAULT_MIX


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "profile=weight, such as web=4,idle=2, not nothing"),
        ("web", "profile=weight, such as web=4,idle=2, not web"),
        ("web=x", "profile=weight, such as web=4,idle=2, not web=x"),
        ("web=0", "a weight from 1 to 1000000 for web, not 0"),
        ("web=-1", "a weight from 1 to 1000000 for web, not -1"),
        ("web=1000001", "a weight from 1 to 1000000 for web, not 1000001"),
        ("web=1,web=2", "each profile once, not web twice"),
        ("wbe=1", "one of web, database, worker, cron, idle, leaking, crash-looping, not wbe"),
    ],
)
def test_a_wrong_mix_is_named(text: str, message: str) -> None:
    """The error names profile, weight and what was expected."""
    with pytest.raises(MixError) as caught:
        parse_mix(text)

    assert message in str(caught.value)


def test_an_empty_table_is_no_mix() -> None:
    """At least one profile is needed, and weights are integers."""
    with pytest.raises(MixError, match="at least one profile"):
        checked_mix({})
    with pytest.raises(MixError, match="a weight from"):
        checked_mix({"web": True})
