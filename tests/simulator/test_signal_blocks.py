"""Blocks give the values of the reference, bit for bit."""

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from server.protocol.messages import Metric
from simulator.host import FakeHost, Input, InputKind, share_blocks
from simulator.lives import Lives
from simulator.loglines import LogLines
from simulator.names import Names
from simulator.profiles import PROFILES, Character, ContainerSignals, Profile, character_of
from simulator.signal_blocks import SignalBlock

LINES, NAMES = LogLines(5), Names(5)
TICKS = st.one_of(st.integers(0, 2000), st.integers(0, 10**9))
HOST = {"seed": st.integers(0, 2**70), "agent": st.integers(1, 10**6), "cores": st.integers(1, 64)}


def characters_of(
    profiles: Sequence[Profile], interval_us: int, seed: int = 9, agent: int = 1, cores: int = 4
) -> list[Character]:
    """The containers of one host, one of each of the profiles."""
    return [character_of(profile, seed, agent, place, cores, interval_us) for place, profile in enumerate(profiles)]


def lives(count: int, containers: int) -> list[Lives]:
    """Hosts to whose containers nothing happens."""
    return [Lives(host, containers, 0, {}) for host in range(count)]


def reference(character: Character, ref: int, tick: int, since: int) -> Metric:
    """The sample of one container as the scalar functions give it."""
    cpu, mem, rx, tx = ContainerSignals(character).at(tick, since)
    return Metric(ref=ref, cpu=cpu, mem=mem, rx=rx, tx=tx)


def hosts(count: int = 7, containers: int = 5, churn_ticks: int = 0) -> list[FakeHost]:
    """Hosts of the seed 5, without a block; most of their containers die again and again."""
    return [
        FakeHost(
            seed=5,
            agent=agent,
            containers=containers,
            log_lines=1,
            t0_us=0,
            interval_us=1_000_000,
            lines=LINES,
            names=NAMES,
            profiles={"web": 1, "leaking": 1, "crash-looping": 1},
            churn_ticks=churn_ticks,
        )
        for agent in range(1, count + 1)
    ]


@settings(deadline=None)
@given(
    st.data(),
    st.lists(st.sampled_from(PROFILES), min_size=1, max_size=5),
    st.sampled_from((100_000, 1_000_000, 7_000_000)),
    st.lists(TICKS, min_size=1, max_size=20),
)
def test_a_block_is_the_reference(
    data: st.DataObject, profiles: list[Profile], interval_us: int, ticks: list[int]
) -> None:
    """Whatever the seed, the containers and the ticks, in rising order and with leaps, each value is the scalar one."""
    hosts = data.draw(st.lists(st.fixed_dictionaries(HOST), min_size=1, max_size=4))
    characters = [characters_of(profiles, interval_us, **host) for host in hosts]
    block = SignalBlock(characters, lives(len(hosts), len(profiles)))

    for tick in sorted(ticks):
        for place, own in enumerate(characters):
            expected = tuple(reference(character, ref, tick, 0) for ref, character in enumerate(own))
            assert block.metrics(place, tick) == expected


def test_every_tick_of_a_long_stretch_is_the_reference() -> None:
    """Over the ends of all octaves, a step and a few spikes a block that goes tick by tick does not drift."""
    characters = [characters_of(PROFILES, 1_000_000, agent=agent) for agent in (1, 2)]
    block = SignalBlock(characters, lives(2, len(PROFILES)))
    signals = [[ContainerSignals(character) for character in own] for own in characters]

    for tick in range(1500, 2100):
        for place, own in enumerate(signals):
            metrics = block.metrics(place, tick)
            assert metrics is not None
            assert [(row.cpu, row.mem, row.rx, row.tx) for row in metrics] == [each.at(tick, 0) for each in own]


def test_a_block_does_not_go_back() -> None:
    """What lies before the tick computed last is left to the reference."""
    block = SignalBlock([characters_of((Profile.WEB,), 1_000_000)], lives(1, 1))

    assert block.metrics(0, 5) is not None
    assert block.metrics(0, 4) is None


CHURN = st.sampled_from((0, 10, 37))
"""Ticks between two re-creations."""


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 4), st.sampled_from(("start", "stop", "restart"))), max_size=15
    ),
    TICKS,
    st.integers(1, 70),
    st.integers(-40, 10),
    CHURN,
)
def test_a_stretch_is_the_reference(
    changes: list[tuple[int, int, InputKind]], first: int, length: int, shift: int, churn_ticks: int
) -> None:
    """Ticks made together are the ticks made one by one, around commands and re-creations; so are those that follow."""
    (host,) = hosts(1, churn_ticks=churn_ticks)
    for tick, place, kind in sorted(changes):
        change = max(0, first + shift) + tick
        host.apply(Input(change, host.lives.spell(place, change + 1).ref, kind))
    ticks = range(first, first + length)

    expected = [host.metrics(tick) for tick in ticks]  # a host without a block asks the reference

    assert host.metrics_of(ticks) == expected
    assert host._block is not None
    assert [host.metrics(tick) for tick in ticks] == expected


CHANGES = st.lists(
    st.tuples(st.integers(0, 14), st.integers(0, 3), st.integers(0, 2), st.sampled_from(("start", "stop", "restart"))),
    max_size=15,
)


@settings(deadline=None, max_examples=50)
@given(CHANGES, st.sets(st.tuples(st.integers(0, 14), st.integers(0, 3))), st.integers(0, 10**6), CHURN)
def test_hosts_in_blocks_are_hosts_alone(
    changes: list[tuple[int, int, int, InputKind]], skipped: set[tuple[int, int]], first: int, churn_ticks: int
) -> None:
    """With commands between any two ticks, crashes and skipped ticks, samples are those of a host without a block.

    The block's first host asks for the next tick before the last one is told its command of this tick.
    """
    shared, alone = hosts(4, 3, churn_ticks), hosts(4, 3, churn_ticks)
    share_blocks(shared)
    turns = [(tick, place) for tick in range(16) for place in range(len(shared))]
    commands: list[tuple[int, int, Input]] = []
    for tick, place, number, kind in changes:
        ref = alone[place].lives.spell(number, first + tick + 1).ref
        # It reaches the host somewhere between this tick and its next one, when others have gone on.
        commands.append(
            (tick * len(shared) + place + (number * 3) % len(shared), place, Input(first + tick, ref, kind))
        )
    commands.sort(key=lambda command: (command[0], command[2].tick))

    for turn, (tick, place) in enumerate(turns):
        if (tick, place) not in skipped:
            assert shared[place].metrics(first + tick) == alone[place].metrics(first + tick)
        for due, target, change in commands:
            if due == turn:
                for each in (shared, alone):
                    each[target].apply(change)

    for place, host in enumerate(shared):  # as for frames that are sent again
        assert [host.metrics(first + tick) for tick in range(16)] == [
            alone[place].metrics(first + tick) for tick in range(16)
        ]


def test_blocks_are_of_any_size() -> None:
    """Hosts with more containers than a block should hold have one each; a few hosts share one."""
    many, few = hosts(2, containers=3000), hosts(3, containers=1)
    share_blocks(many)
    share_blocks(few)

    assert len({id(host._block) for host in many}) == 2
    assert len({id(host._block) for host in few}) == 1
    assert many[1].metrics(3) == hosts(2, containers=3000)[1].metrics(3)
