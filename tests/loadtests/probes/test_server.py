"""The server's counters as series."""

from loadtests.probes.catalogue import SERVER_COUNTERS, SERVER_GAUGES
from loadtests.probes.server import FLUSHES, ServerProbe
from tests.support.server import RunningServer


async def test_a_running_server_fills_its_series(server: RunningServer) -> None:
    """Every gauge and every rate of the catalogue is one that the server really has."""
    probe = ServerProbe(server.http)
    await probe.look()
    await probe.look()
    empty = [name for name in (*SERVER_GAUGES, *SERVER_COUNTERS) if not probe.series[name].points]

    assert empty == []
    assert (probe.looks.looks, probe.looks.failures, probe.unready_seconds) == (2, 0, 0)


async def test_a_server_that_does_not_answer_leaves_a_gap() -> None:
    """Nobody listens: said, and no zero."""
    probe = ServerProbe("http://127.0.0.1:1")
    await probe.look()

    assert (probe.looks.failures, probe.looks.last_error) == (1, "/metrics did not answer in time")
    assert all(not series.points for series in probe.series.values())


def test_flushes_of_the_warm_up_are_cut_off() -> None:
    """Bucket by bucket, over a restart of the server too."""
    probe = ServerProbe("http://127.0.0.1:1")
    bucket = f"{FLUSHES}_bucket"
    probe._totals.update({(bucket, "0.1"): 3.0, (bucket, "+Inf"): 4.0})
    probe.warmed_up()
    assert probe.flushes().count == 0

    probe.ended()
    probe._totals.update({(bucket, "0.1"): 2.0, (bucket, "+Inf"): 2.0})
    assert probe.flushes().count == 2
    assert probe.flushes().statistics()["max"] <= 101
