"""The server's counters as series."""

from types import SimpleNamespace

import pytest

from loadtests.probes import server as server_module
from loadtests.probes.catalogue import SERVER_COUNTERS, SERVER_GAUGES
from loadtests.probes.server import FLUSHES, ROWS, ServerProbe
from loadtests.scrape import Sample
from tests.support.server import RunningServer


class Scripted:
    """A probe of a server whose answers are given, each at a second of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.probe = ServerProbe("http://127.0.0.1:1")
        self._patch = monkeypatch

    async def look(self, second: float, counters: Sample | None) -> None:
        """Look at a second, or prepare at one before 0; None: no answer."""

        async def scrape(_: str) -> Sample | None:
            return counters

        async def status(_: str) -> int | None:
            return None

        self._patch.setattr(server_module, "scrape", scrape)
        self._patch.setattr(server_module, "status", status)
        self._patch.setattr(server_module, "time", SimpleNamespace(monotonic=lambda: 100.0 + second))
        self._patch.setattr(server_module, "now_us", lambda: round(second * 1e6))
        await (self.probe.prepare() if second < 0 else self.probe.look())

    def points(self, name: str) -> list[tuple[float, float]]:
        """Of a series, in seconds."""
        return [(at / 1e6, value) for at, value in self.probe.series[name].points]


def stored(rows: float) -> Sample:
    """A scrape of a server that stored so many rows, one batch of ten at a time."""
    return {(ROWS[0], ""): rows, ("seatrial_batches_accepted_total", ""): rows / 10, ("seatrial_subscribers", ""): 1.0}


async def test_a_rate_over_a_hole_counts_for_each_of_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that was away for 20 s of 60 has the mean of what it stored in 60 s; a level keeps its hole."""
    scripted = Scripted(monkeypatch)
    rows = 0
    for second in range(61):
        away = 20 <= second < 40
        if second == 30:
            scripted.probe.ended()  # and the next process counts from zero
            rows = 0
        rows += 0 if away or not second else 1200
        await scripted.look(second, None if away else stored(rows))
    series = scripted.probe.series["insert_rows_per_second"]

    assert len(series.points) == 60
    assert series.statistics()["mean"] == pytest.approx(40 * 1200 / 60)
    hole = scripted.points("insert_rows_per_second")[19:40]
    assert [at for at, _ in hole] == pytest.approx(list(range(20, 41)))
    assert [rate for _, rate in hole] == pytest.approx([1200 / 21] * 21)
    assert scripted.probe.series["batches_accepted_per_second"].statistics()["mean"] == pytest.approx(4000 / 50)
    assert [at for at, _ in scripted.points("subscribers_connected") if 20 <= at < 40] == []


def old_server(replayed: float, quick: float, slow: float, rows: float) -> Sample:
    """A scrape of a server with so many replayed rows, flushes under 0.1 s and longer ones, and stored rows."""
    bucket = f"{FLUSHES}_bucket"
    return stored(rows) | {
        ("seatrial_rows_replayed_total", ""): replayed,
        ("seatrial_wal_bytes_total", ""): -rows,  # of Postgres: falls without a restart of the server
        (bucket, "0.1"): quick,
        (bucket, "1.0"): quick + slow,
        (bucket, "+Inf"): quick + slow,
    }


@pytest.mark.parametrize("answers_at_once", [True, False])
async def test_what_a_server_counted_before_the_run_is_not_the_runs(
    monkeypatch: pytest.MonkeyPatch, answers_at_once: bool
) -> None:
    """Replays and flushes count from the beginning, without a warm-up too, and over a restart that only counters tell of."""
    scripted = Scripted(monkeypatch)
    before = old_server(replayed=500, quick=1000, slow=50, rows=1e6)
    await scripted.look(-1, before if answers_at_once else None)
    scripted.probe.warmed_up()
    await scripted.look(0, before)
    assert scripted.probe.total("seatrial_rows_replayed_total") == 0
    assert scripted.probe.flushes().count == 0

    await scripted.look(1, old_server(replayed=503, quick=1010, slow=50, rows=1e6 + 100))
    await scripted.look(2, old_server(replayed=1, quick=4, slow=0, rows=40))  # another process
    await scripted.look(3, old_server(replayed=2, quick=8, slow=0, rows=140))

    assert scripted.probe.total("seatrial_rows_replayed_total") == 3 + 2
    assert scripted.probe.flushes().count == 10 + 8
    assert scripted.probe.flushes().statistics()["max"] <= 101
    assert scripted.points("insert_rows_per_second") == [(1, 100), (2, 40), (3, 100)]


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


async def test_live_sockets_are_counted_by_their_code(server: RunningServer) -> None:
    """By the labels that the real server has; an agent's socket with the same code is none of them."""
    closed = server.service.counters.sockets_closed
    closed["live", "4999"] += 1
    probe = ServerProbe(server.http)
    await probe.prepare()  # what came before was for others
    closed["live", "4999"] += 2
    closed["agent", "4999"] += 1
    await probe.look()

    assert (probe.live_closed(4999), probe.live_closed(4998)) == (2, 0)
