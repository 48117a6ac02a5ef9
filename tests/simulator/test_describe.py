"""What a fleet would send, told without sending it."""

import asyncio

import pytest

from simulator.describe import describe
from simulator.fleet import Fleet
from simulator.plan import Plan, Workload
from tests.support.fake_server import SECRET, Peer, fake_server


def test_counts_and_rates_follow_from_the_options() -> None:
    """Hosts, containers and messages are exact; samples fall short of containers by those that wait for a restart."""
    told = describe(Workload(agents=300, containers=10, interval_us=2_000_000, churn_per_hour=60), 40.0)

    assert (told.first_host, told.last_host, told.containers) == ("host-00001", "host-00300", 3000)
    assert sum(told.profiles.values()) == 3000
    assert told.messages_per_second == 150
    assert 0.98 * 1500 < told.samples_per_second < 1500
    assert 150 < told.log_lines_per_second < 1.2 * 150
    assert told.recreated_per_hour == pytest.approx(300 * 60)
    assert told.restarts_per_hour > 0
    assert told.samples_per_day == pytest.approx(told.samples_per_second * 86_400)


def test_a_fleet_that_never_restarts_says_so() -> None:
    """Without churn and without profiles that die nothing is re-created or restarted, and each container is sampled."""
    told = describe(Workload(agents=3, containers=2, log_lines=0, profiles={"web": 1, "idle": 1}))

    assert (told.recreated_per_hour, told.restarts_per_hour, told.log_lines_per_second) == (0, 0, 0)
    assert told.samples_per_second == 6


@pytest.mark.parametrize("containers", [1, 1000])
def test_large_and_small_hosts_are_described(containers: int) -> None:
    """Whatever the size, one frame at least is encoded."""
    told = describe(Workload(agents=2, containers=containers, interval_us=3_600_000_000))

    assert told.message_bytes_max >= told.message_bytes_mean > 50 * containers


async def test_what_is_told_is_what_is_sent() -> None:
    """A real fleet's rows and bytes a message are those of its description, within a few percent."""

    async def script(peer: Peer) -> None:
        await peer.welcome()
        await peer.ack_all()

    workload = {
        "agents": 20,
        "containers": 10,
        "log_lines": 3,
        "interval_us": 200_000,
        "profiles": {"web": 3, "idle": 1},
    }
    told = describe(Workload(**workload))  # type: ignore[arg-type]
    async with fake_server(script) as server:
        plan = Plan(url=server.url, secret=SECRET, ramp_us=0, duration_us=1_500_000, **workload)  # type: ignore[arg-type]
        fleet = Fleet(plan)
        await fleet.run(asyncio.Event())

    counts = fleet.counts
    assert counts.batches_sent > 60
    assert counts.metrics_produced / counts.ticks == told.samples_per_second / told.messages_per_second
    assert counts.bytes_sent / counts.batches_sent == pytest.approx(told.message_bytes_mean, rel=0.25)


def test_lines_are_for_people() -> None:
    """Each figure has its line, with faults at the end."""
    lines = describe(Workload(agents=2), 90.0, ["server_kill at 15s"]).lines()

    assert [line.split()[0] for line in lines] == [
        "hosts", "containers", "messages", "samples", "log", "bytes", "churn", "restarts", "faults",
    ]  # fmt: skip
    assert "for 90s" in lines[0]
    assert lines[-1].endswith("server_kill at 15s")
