"""Blocks give the values of the reference, bit for bit."""

from hypothesis import given, settings
from hypothesis import strategies as st

from server.protocol.messages import Metric
from simulator.host import FakeHost, Input, InputKind, share_blocks
from simulator.loglines import LogLines
from simulator.names import Names
from simulator.signal_blocks import SignalBlock
from simulator.signals import Character, ContainerSignals, character_of

LINES, NAMES = LogLines(5), Names(5)
TICKS = st.one_of(st.integers(0, 2000), st.integers(0, 10**9))
CHARACTERS = st.builds(
    character_of,
    seed=st.integers(0, 2**70),
    agent=st.integers(1, 10**6),
    container=st.integers(0, 1000),
    cores=st.integers(1, 64),
    memory_limit_bytes=st.one_of(st.none(), st.integers(0, 2**40)),
)


def reference(character: Character, ref: int, tick: int, since: int) -> Metric:
    """The sample of one container as the scalar functions give it."""
    cpu, mem, rx, tx = ContainerSignals(character).at(tick, since)
    return Metric(ref=ref, cpu=cpu, mem=mem, rx=rx, tx=tx)


def hosts(count: int = 7, containers: int = 5) -> list[FakeHost]:
    """Hosts of the seed 5, without a block."""
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
        )
        for agent in range(1, count + 1)
    ]


@settings(deadline=None)
@given(st.data(), st.integers(1, 4), st.lists(TICKS, min_size=1, max_size=20))
def test_a_block_is_the_reference(data: st.DataObject, containers: int, ticks: list[int]) -> None:
    """Whatever the seed, the containers and the ticks, in rising order and with leaps, each value is the scalar one."""
    host = st.lists(CHARACTERS, min_size=containers, max_size=containers)
    characters = data.draw(st.lists(host, min_size=1, max_size=4))
    block = SignalBlock(characters)

    for tick in sorted(ticks):
        for place, own in enumerate(characters):
            expected = tuple(reference(character, ref, tick, 0) for ref, character in enumerate(own))
            assert block.metrics(place, tick) == expected


def test_every_tick_of_a_long_stretch_is_the_reference() -> None:
    """Over the ends of all octaves a block that goes tick by tick does not drift."""
    characters = [[character_of(9, agent, ref, 4, None) for ref in range(3)] for agent in (1, 2)]
    block = SignalBlock(characters)
    signals = [[ContainerSignals(character) for character in own] for own in characters]

    for tick in range(1100):
        for place, own in enumerate(signals):
            metrics = block.metrics(place, tick)
            assert metrics is not None
            assert [(row.cpu, row.mem, row.rx, row.tx) for row in metrics] == [each.at(tick, 0) for each in own]


def test_a_block_does_not_go_back() -> None:
    """What lies before the tick computed last is left to the reference."""
    block = SignalBlock([[character_of(1, 1, 0, 4, None)]])

    assert block.metrics(0, 5) is not None
    assert block.metrics(0, 4) is None


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.integers(0, 4), st.sampled_from(("start", "stop", "restart"))), max_size=15
    ),
    TICKS,
    st.integers(1, 70),
    st.integers(-40, 10),
)
def test_a_stretch_is_the_reference(
    changes: list[tuple[int, int, InputKind]], first: int, length: int, shift: int
) -> None:
    """Ticks made together are the ticks made one by one, before, between and after commands; so are those that follow."""
    (host,) = hosts(1)
    for tick, ref, kind in sorted(changes):
        host.apply(Input(max(0, first + shift) + tick, ref, kind))
    ticks = range(first, first + length)

    expected = [host.metrics(tick) for tick in ticks]  # a host without a block asks the reference

    assert host.metrics_of(ticks) == expected
    assert host._block is not None
    assert [host.metrics(tick) for tick in ticks] == expected


CHANGES = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 6), st.integers(0, 4), st.sampled_from(("start", "stop", "restart"))),
    max_size=25,
)


@settings(deadline=None)
@given(CHANGES, st.sets(st.tuples(st.integers(0, 30), st.integers(0, 6))), st.integers(0, 10**6))
def test_hosts_in_blocks_are_hosts_alone(
    changes: list[tuple[int, int, int, InputKind]], skipped: set[tuple[int, int]], first: int
) -> None:
    """With commands between any two ticks of a host and skipped ticks, samples are those of a host without a block.

    The block's first host asks for the next tick before the last one is told its command of this tick.
    """
    shared, alone = hosts(), hosts()
    share_blocks(shared)
    turns = [(tick, place) for tick in range(32) for place in range(len(shared))]
    commands: list[tuple[int, int, Input]] = []
    for tick, place, ref, kind in changes:
        # It reaches the host somewhere between this tick and its next one, when others have gone on.
        commands.append((tick * len(shared) + place + (ref * 3) % len(shared), place, Input(first + tick, ref, kind)))
    commands.sort(key=lambda command: (command[0], command[2].tick))

    for turn, (tick, place) in enumerate(turns):
        if (tick, place) not in skipped:
            assert shared[place].metrics(first + tick) == alone[place].metrics(first + tick)
        for due, target, change in commands:
            if due == turn:
                for each in (shared, alone):
                    each[target].apply(change)

    for place, host in enumerate(shared):  # as for frames that are sent again
        assert [host.metrics(first + tick) for tick in range(32)] == [
            alone[place].metrics(first + tick) for tick in range(32)
        ]


def test_blocks_are_of_any_size() -> None:
    """Hosts with more containers than a block should hold have one each; a few hosts share one."""
    many, few = hosts(2, containers=3000), hosts(3, containers=1)
    share_blocks(many)
    share_blocks(few)

    assert len({id(host._block) for host in many}) == 2
    assert len({id(host._block) for host in few}) == 1
    assert many[1].metrics(3) == hosts(2, containers=3000)[1].metrics(3)
