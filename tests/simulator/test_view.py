"""What people and programs see of a running fleet."""

import io
import json

import pytest
from rich.console import Console

from simulator import view
from simulator.status import Status, add, status, told
from simulator.view import View
from tests.support.fake_server import fake_server
from tests.support.fleets import eventually, running_fleet


def a_status(**changes: object) -> Status:
    """A fleet of ten in its first second."""
    values: dict[str, object] = {
        "at_us": 1_000_000, "agents": 10, "connected": 9, "batches_produced": 120, "batches_sent": 110, "batches_acked": 100,
        "batches_resent": 3, "batches_dropped": 2, "rows": 1200, "skipped_ticks": 1, "faults": {"disconnect": 4}, "cpu": 0.5,
        "cpu_seconds": 2.5, "generation_cpu_seconds": 0.5, "ledger_cpu_seconds": 0.1, "rss_bytes": 64 << 20,
        "ack": {1000: 98, 50_000: 2}, "lag": {2000: 100},
    }  # fmt: skip
    return Status(**(values | changes))  # type: ignore[arg-type]


async def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Each call prints the figures on standard output, the rate from the second on."""
    async with fake_server() as server, running_fleet(server) as fleet:
        with View(as_json=True) as shown:
            for count in (2, 5):
                await eventually(lambda count=count: fleet.counts.batches_acked > count)  # type: ignore[misc]
                shown.show(status(fleet))
    lines = [json.loads(text) for text in capsys.readouterr().out.splitlines()]

    assert lines[0]["connected"] == 1
    assert lines[0]["ack_p50_ms"] > 0
    assert lines[0]["messages_per_second"] is None
    assert lines[1]["messages_per_second"] > 0
    assert lines[1]["rss_bytes"] > 10 << 20
    assert lines[1]["ack_latency_ms"]["count"] > lines[0]["ack_latency_ms"]["count"] > 0


def test_plain_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody sits at a terminal a sentence comes every fifth second, on standard error."""
    with View(as_json=False) as shown:
        for second in range(6):
            shown.show(a_status(at_us=second * 1_000_000, batches_sent=110 + 10 * second))
    captured = capsys.readouterr()
    rest = (
        "100 of 120 batches acknowledged, ack p50 1.0 ms p99 50.0 ms, lag p99 2.0 ms, CPU 50%, "
        "3 batches resent, 2 batches dropped, 1 skipped ticks, 4 x fault disconnect"
    )

    assert captured.out == ""
    assert captured.err.splitlines() == [
        f"9/10 agents connected, {rest}",
        f"9/10 agents connected, 10 messages/s, {rest}",
    ]


def test_a_terminal_gets_a_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal the figures stand in one table that is drawn anew."""
    terminal = io.StringIO()
    monkeypatch.setattr(
        view, "Console", lambda **_: Console(file=terminal, force_terminal=True, width=100, color_system=None)
    )
    with View(as_json=False, title="10 agents at ws://127.0.0.1:1") as shown:
        shown.show(a_status())
        shown.show(a_status(at_us=2_000_000, batches_sent=1_110))
    last = terminal.getvalue().rpartition("10 agents at")[2]

    for figure in ("9/10", "1,000", "1.0 ms", "50.0 ms", "2.0 ms", "resends", "4 x disconnect", "64 MiB"):
        assert figure in last


def test_statuses_of_processes_add_up() -> None:
    """Counts are added, the newest of each process; latencies are those of every second since."""
    other = a_status(at_us=3_000_000, connected=1, faults={"disconnect": 1, "flood": 2}, ack={1000: 2})
    whole = add([[a_status(), a_status(at_us=2_000_000, batches_sent=500)], [other]])

    assert (whole.at_us, whole.agents, whole.connected, whole.batches_sent) == (3_000_000, 20, 10, 610)
    assert whole.ack == {1000: 198, 50_000: 4}
    assert whole.faults == {"disconnect": 5, "flood": 2}
    assert told(whole, None)["backlog"] == 240 - 200 - 4
