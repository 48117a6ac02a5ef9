"""What people and programs see of a running fleet."""

import json

import pytest

from simulator.status import StatusLine
from tests.support.fake_server import fake_server
from tests.support.fleets import eventually, running_fleet


async def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Each call prints the figures on standard output."""
    async with fake_server() as server, running_fleet(server) as fleet:
        await eventually(lambda: fleet.counts.batches_acked > 2)
        with StatusLine(as_json=True) as line:
            line.show(fleet)
            line.show(fleet)
    shown = [json.loads(text) for text in capsys.readouterr().out.splitlines()]

    assert shown[0]["connected"] == 1
    assert shown[0]["ack_p50_ms"] > 0
    assert shown[1]["ack_p50_ms"] is None or shown[1]["ack_p50_ms"] > 0


async def test_plain_lines_are_few(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody sits at a terminal a sentence comes every fifth second, on standard error."""
    async with fake_server() as server, running_fleet(server) as fleet:
        await eventually(lambda: fleet.counts.batches_acked > 2)
        with StatusLine(as_json=False) as line:
            for _ in range(6):
                line.show(fleet)
    captured = capsys.readouterr()

    assert captured.out == ""
    assert len(captured.err.splitlines()) == 2
    assert captured.err.startswith("1/1 agents connected, ")
