"""The fleet's status lines, read while they are written."""

import json
from pathlib import Path

from loadtests.fleet_status import FleetStatus


def line(second: int, rows: int, **changes: object) -> str:
    """A status as the simulator writes it."""
    status = {
        "at_us": second * 1_000_000, "agents": 2, "connected": 2, "batches_produced": rows // 10,
        "batches_acked": rows // 20, "batches_resent": 1, "batches_dropped": 0, "backlog": rows // 20, "rows": rows,
        "ack_latency_ms": {"p99": 5.0},
    }  # fmt: skip
    return json.dumps(status | changes) + "\n"


def test_rates_come_from_two_lines(tmp_path: Path) -> None:
    """Offered and acked by the second; other text in the log is no status."""
    log = tmp_path / "fleet.log"
    log.write_text("a warning\n" + line(1, 100) + line(2, 300))
    status = FleetStatus(log)
    status.poll()

    assert status.series["offered_rows_per_second"].points == [(2_000_000, 200.0)]
    assert status.series["acked_batches_per_second"].points == [(2_000_000, 10.0)]
    assert status.series["backlog_batches"].points == [(1_000_000, 5.0), (2_000_000, 15.0)]
    assert status.last["rows"] == 300
    assert status.statistics() == {
        "ack_latency_ms": {"p99": 5.0}, "resends": {"count": 1.0}, "batches_dropped": {"count": 0.0},
    }  # fmt: skip


def test_a_line_is_read_once_it_is_whole(tmp_path: Path) -> None:
    """Half a line waits for its end, and nothing is read twice."""
    log, whole = tmp_path / "fleet.log", line(1, 100)
    status = FleetStatus(log)
    for text, looks in ((whole[:20], 0), (whole[20:], 1), (line(2, 200)[:-1], 1), ("\n", 2)):
        with log.open("a") as file:
            file.write(text)
        status.poll()
        assert status.looks.looks == looks


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    """A missing log and a line that is no status are looks in vain, and no zeros."""
    status = FleetStatus(tmp_path / "fleet.log")
    status.poll()
    (tmp_path / "fleet.log").write_text('{"at_us": 5}\n{half a line\n')
    status.poll()

    assert (status.looks.looks, status.looks.failures) == (3, 3)
    assert all(not series.points for series in status.series.values())
