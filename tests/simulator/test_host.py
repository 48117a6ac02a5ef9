"""A simulated host: the same rows for the same seed and inputs, in whatever order they are asked for."""

import re
from collections.abc import Mapping

import pytest

from server.protocol.identity import series_name
from server.protocol.messages import Log, Metric
from simulator.host import FakeHost, Input
from simulator.loglines import LogLines
from simulator.names import Names
from simulator.profiles import DEFAULT_MIX

LINES, NAMES = LogLines(5), Names(5)
T0_US = 1_700_000_000_000_000


def host(
    agent: int = 1,
    containers: int = 5,
    log_lines: int = 6,
    interval_us: int = 1_000_000,
    profiles: Mapping[str, int] = DEFAULT_MIX,
    churn_ticks: int = 0,
) -> FakeHost:
    """A host of the seed 5."""
    return FakeHost(
        seed=5,
        agent=agent,
        containers=containers,
        log_lines=log_lines,
        t0_us=T0_US,
        interval_us=interval_us,
        lines=LINES,
        names=NAMES,
        profiles=profiles,
        churn_ticks=churn_ticks,
    )


def rows(fake: FakeHost, ticks: range) -> list[tuple[tuple[Metric, ...], tuple[Log, ...]]]:
    """Everything a host produces."""
    return [(fake.metrics(tick), fake.logs(tick)) for tick in ticks]


def test_identity_is_stable_and_each_hosts_own() -> None:
    """Ids depend on seed and number alone, and differ between hosts."""
    one, again, other = host(1), host(1), host(2)

    assert one.host_id == "host-00001"
    assert one.machine_id == again.machine_id != other.machine_id
    assert one.docker_id(0) == again.docker_id(0)
    assert len({one.docker_id(0), one.docker_id(1), other.docker_id(0)}) == 3
    assert re.fullmatch("[a-f0-9]{64}", one.docker_id(0))


def test_containers_are_a_compose_project() -> None:
    """Names and labels agree, refs count from 0, and past the catalogue's end services repeat under other numbers."""
    containers = host(containers=40).inventory(range(40), 0)

    assert containers[7] == host(containers=40).container(7, 0)
    assert [container.ref for container in containers] == list(range(40))
    assert len({container.name for container in containers}) == 40
    assert len({series_name(container.name, container.labels) for container in containers}) == 40
    assert {container.labels["com.docker.compose.container-number"] for container in containers} >= {"1", "2"}
    assert {container.state for container in containers} <= {"running", "restarting"}
    assert any(container.protected for container in containers)


def test_phases_spread_over_the_interval() -> None:
    """The hosts' first ticks fall into every tenth of the interval."""
    phases = [host(agent).phase_us for agent in range(1, 201)]

    assert {phase * 10 // 1_000_000 for phase in phases} == set(range(10))


def test_the_timeline_is_absolute() -> None:
    """A tick is due at t0 + phase + tick * interval, and the first tick at a time is its inverse."""
    fake = host()

    assert fake.at(7) == T0_US + fake.phase_us + 7_000_000
    assert fake.first_tick_at(fake.at(7)) == 7
    assert fake.first_tick_at(fake.at(7) + 1) == 8
    assert fake.first_tick_at(0) == 0


def test_rows_do_not_depend_on_what_was_asked_before() -> None:
    """Asking backwards gives the same rows as asking forwards."""
    forwards = rows(host(), range(50))

    backwards = host()

    assert [(backwards.metrics(tick), backwards.logs(tick)) for tick in reversed(range(50))] == forwards[::-1]


def test_each_running_container_has_one_sample_per_tick() -> None:
    """Samples come in the order of the refs and take the batch's time."""
    metrics = host().metrics(3)

    assert [metric.ref for metric in metrics] == [0, 1, 2, 3, 4]
    assert all(metric.at is None for metric in metrics)


def test_log_lines_have_unique_keys_in_order() -> None:
    """A tick has its lines or more; (ref, at, line) never repeats, `line` counts from 0, and none lies after the tick."""
    fake = host(containers=2, log_lines=20)
    seen = set()
    shared = 0
    for tick in range(100):
        lines = fake.logs(tick)
        assert len(lines) >= 20
        assert [line.at for line in lines] == sorted(line.at for line in lines)
        for line in lines:
            key = (line.ref, line.at, line.line)
            assert key not in seen
            assert line.line == 0 or (line.ref, line.at, line.line - 1) in seen
            assert fake.at(tick) - fake.interval_us < line.at <= fake.at(tick)
            seen.add(key)
            shared += line.line
    assert shared > 100


@pytest.mark.parametrize("log_lines", [0, 1, 1000])
def test_any_number_of_lines_fits_the_shortest_interval(log_lines: int) -> None:
    """Keys of neighbouring ticks never meet, however many lines there are."""
    fake = host(log_lines=log_lines, interval_us=100_000)
    keys = [(line.ref, line.at, line.line) for tick in range(5) for line in fake.logs(tick)]

    assert 5 * log_lines <= len(keys) == len(set(keys)) <= 5.5 * log_lines


def test_bursts_come_by_seed_and_tick() -> None:
    """Some ticks have eight times the lines, eight ticks long, of one container; on the whole they add a few percent."""
    fake = host(log_lines=5)
    counts = [len(fake.logs(tick)) for tick in range(20_000)]

    assert counts[:200] == [len(host(log_lines=5).logs(tick)) for tick in range(200)]
    many = [tick for tick, count in enumerate(counts) if count >= 40]
    begins = [tick for tick in many if tick - 1 not in many]
    assert 2 <= len(begins) <= 25
    assert len(many) == 8 * len(begins)
    refs = [line.ref for line in fake.logs(begins[0])]
    assert max(refs.count(ref) for ref in set(refs)) >= 35
    assert 1.0 < sum(counts) / (5 * len(counts)) < 1.15


def test_stack_traces_are_printed_whole() -> None:
    """Wherever one begins, its lines follow one another in one container, each at or after the one before."""
    fake = host(containers=1, log_lines=3, profiles={"crash-looping": 1})
    seen = 0
    for tick in range(300):
        rows = fake.logs(tick)
        for i, row in enumerate(rows):
            if row.text.startswith("Traceback"):
                seen += 1
                end = next(j for j in range(i, len(rows)) if rows[j].text.startswith("ValueError"))
                assert end - i >= 5
                assert all(line.text.startswith("  ") for line in rows[i + 1 : end])
    assert seen > 20


def test_a_stopped_container_falls_silent_from_the_next_tick_on() -> None:
    """After a stop neither samples nor lines mention the container, until it is started."""
    fake = host()

    assert fake.apply(Input(10, 2, "stop"))
    assert fake.apply(Input(20, 2, "start"))

    for tick, there in ((10, True), (11, False), (20, False), (21, True)):
        assert (2 in {metric.ref for metric in fake.metrics(tick)}) is there
        mentioned = any(line.ref == 2 for later in range(tick, tick + 1) for line in fake.logs(later))
        assert there or not mentioned
    assert not any(line.ref == 2 for tick in range(11, 21) for line in fake.logs(tick))
    assert fake.container(2, 10).state == "exited"
    assert fake.container(2, 20).state == "running"


def test_a_restart_resets_the_counters_at_its_tick() -> None:
    """The first sample after a restart has no CPU and small counters; other containers go on."""
    fake, untouched = host(), host()
    fake.apply(Input(100, 0, "restart"))
    before, after = fake.metrics(100)[0], fake.metrics(101)[0]

    assert before.rx is not None
    assert after.rx is not None
    assert after.rx < before.rx
    assert after.cpu is None
    assert fake.metrics(101)[1:] == untouched.metrics(101)[1:]


def test_commands_that_change_nothing_change_nothing() -> None:
    """Starting what runs and stopping what does not leave every row as it was."""
    fake = host()

    assert not fake.apply(Input(5, 1, "start"))
    assert fake.apply(Input(6, 1, "stop"))
    assert not fake.apply(Input(7, 1, "stop"))
    assert rows(fake, range(7)) == rows(host(), range(7))


def test_of_two_commands_between_two_ticks_the_later_counts() -> None:
    """A stop and a start after the same tick leave a container that was restarted."""
    fake, restarted = host(), host()
    fake.apply(Input(5, 1, "stop"))
    fake.apply(Input(5, 1, "start"))
    restarted.apply(Input(5, 1, "restart"))

    assert rows(fake, range(12)) == rows(restarted, range(12))


def test_replaying_the_inputs_gives_the_same_rows() -> None:
    """A second host that gets the same commands produces the same."""
    inputs = [
        Input(3, 0, "stop"),
        Input(8, 1, "restart"),
        Input(9, 0, "start"),
        Input(9, 4, "stop"),
        Input(30, 4, "restart"),
    ]
    live, replayed = host(), host()
    produced = []
    for tick in range(40):
        produced.append((live.metrics(tick), live.logs(tick)))
        for change in inputs:
            if change.tick == tick:
                live.apply(change)
    for change in inputs:
        replayed.apply(change)

    assert rows(replayed, range(40)) == produced
    assert rows(live, range(40)) == produced


def test_forgetting_keeps_what_later_ticks_need() -> None:
    """After thousands of commands memory holds a few, and ticks from the bound on are as before."""
    fake, full = host(), host()
    for tick in range(0, 2000, 2):
        for each in (fake, full):
            each.apply(Input(tick, 3, "restart"))
        fake.forget(tick - 10)

    assert rows(fake, range(1990, 2010)) == rows(full, range(1990, 2010))
    assert len(fake.lives._orders[3]) < 20


def test_an_unknown_container_is_an_error() -> None:
    """A command for a ref the host does not have names it."""
    with pytest.raises(KeyError, match="5"):
        host().apply(Input(1, 5, "stop"))


def test_a_clock_that_is_set_moves_all_rows_from_its_tick_on() -> None:
    """Samples and lines keep their values and get the host's own time; when a tick is due does not change."""
    right, wrong = host(), host()
    wrong.clock.set(10, 90_000_000)
    wrong.clock.set(20, -5_000_000)
    wrong.clock.set(30, 0)

    for tick, ahead in ((9, 0), (10, 90_000_000), (19, 90_000_000), (20, -5_000_000), (30, 0)):
        assert wrong.due(tick) == right.due(tick) == right.at(tick)
        assert wrong.at(tick) == right.at(tick) + ahead
        assert wrong.metrics(tick) == right.metrics(tick)
        assert [log.at - ahead for log in wrong.logs(tick)] == [log.at for log in right.logs(tick)]
    assert wrong.clock.newest_us == 0
