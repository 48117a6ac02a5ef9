"""What the fleet's report becomes in the catalogue."""

from pathlib import Path

import pytest

from loadtests.fleet_process import make_fleet
from loadtests.fleet_report import fleet_faults, reconnects, scheduled_rows
from loadtests.result import FaultDone
from loadtests.stage import ServerUnderTest
from simulator.fault_option import parse_faults
from simulator.scenario import load

SECOND = 1_000_000


def fault(second: int, kind: str = "server_kill") -> FaultDone:
    """A fault at a second of the run."""
    return FaultDone(at_us=second * SECOND, ended_at_us=second * SECOND, kind=kind)


def points(*seconds: tuple[float, int, int]) -> list[tuple[int, int, int, int]]:
    """Seconds, agents connected, all of which stream, and welcomes."""
    return [(round(second * SECOND), connected, welcomes, connected) for second, connected, welcomes in seconds]


RAMP = ((1, 60, 60), (2, 100, 100))


def test_a_fleet_is_back_when_99_of_100_are() -> None:
    """The time counts from the fault, the share is of the fullest second; a ramp is neither."""
    made = reconnects(
        points(*RAMP, (11, 0, 100), (12, 10, 110), (14, 80, 180), (15, 99, 199), (16, 100, 200)), 100, [fault(10)]
    )

    assert made["reconnect_99_s"].points == [(10 * SECOND, 5.0)]
    assert made["reconnect_peak_share"].points == [(10 * SECOND, 0.7)]


def test_a_welcome_is_not_yet_a_return() -> None:
    """The fleet is back when its batches are acked again, however early it was welcomed."""
    welcomed = [(11 * SECOND, 0, 100, 0), (12 * SECOND, 100, 200, 0), (15 * SECOND, 100, 200, 98)]
    made = reconnects([*points(*RAMP), *welcomed, (17 * SECOND, 100, 200, 99)], 100, [fault(10)])

    assert made["reconnect_99_s"].points == [(10 * SECOND, 7.0)]
    assert made["reconnect_peak_share"].points == [(10 * SECOND, 1.0)]


def test_each_cut_has_its_point() -> None:
    """Other faults have none."""
    made = reconnects(
        points(*RAMP, (11, 50, 100), (12, 100, 150), (31, 0, 150), (34, 100, 250)),
        100,
        [fault(10, "resets"), fault(20, "postgres_kill"), fault(30, "server_term")],
    )

    assert made["reconnect_99_s"].points == [(10 * SECOND, 2.0), (30 * SECOND, 4.0)]
    assert made["reconnect_peak_share"].points == [(10 * SECOND, 0.5), (30 * SECOND, 1.0)]


def test_a_cut_before_the_return_from_the_one_before_delays_both() -> None:
    """A fleet that was cut again has not come back."""
    made = reconnects(points(*RAMP, (11, 50, 100), (13, 40, 130), (15, 100, 190)), 100, [fault(10), fault(12)])

    assert made["reconnect_99_s"].points == [(10 * SECOND, 5.0), (12 * SECOND, 3.0)]


@pytest.mark.parametrize(
    "after",
    [[], [(11, 99, 101), (12, 100, 102)], [(11, 0, 100), (20, 98, 198)]],
    ids=["nothing was cut", "next to nothing was cut", "it did not come back"],
)
def test_without_a_return_there_is_no_time(after: list[tuple[float, int, int]]) -> None:
    """No samples are never a pass: a fault that did not cut, and a fleet that stayed away, prove nothing."""
    assert reconnects(points(*RAMP, *after), 100, [fault(10)]) == {}


def test_the_fleet_is_told_its_own_faults_only(tmp_path: Path) -> None:
    """Each goes with the command as it was read; what the runner breaks does not."""
    text = (
        '[[fault]]\nat = "1s"\nkind = "disconnect"\n[[fault]]\nat = "2s"\nkind = "postgres_stop"\n'
        '[[fault]]\nat = "3s"\nkind = "clock_skew"\nskew = "-2s"\nagents = 3\n'
    )
    path = tmp_path / "x.toml"
    path.write_text('question = "q"\n' + text)
    scenario = load(path)
    server = ServerUnderTest(scenario, "postgresql://nowhere", tmp_path)
    command = make_fleet(scenario, server, tmp_path)._command
    texts = [command[i + 1] for i, word in enumerate(command) if word == "--fault"]

    assert texts == ["disconnect:at=1s,fraction=0.5", "clock_skew:at=3s,for=5s,agents=3,skew=-2s"]
    assert parse_faults(texts, 40, 100) == tuple(fault for fault in scenario.faults if fault.of_fleet)


def test_faults_of_the_fleet_become_faults_of_the_run() -> None:
    """What happened is told with its time and its counts; what did not is none: the fleet names it as invalid."""
    happened: dict[str, object] = {
        "kind": "disconnect", "begun_us": 5 * SECOND, "ended_us": 6 * SECOND, "agents": 10, "counted": "connections",
        "happened": 9, "counts": {"connections": 9}, "missed": "",
    }  # fmt: skip
    report = {"faults": [happened, happened | {"missed": "its time had not come", "begun_us": None}]}

    assert fleet_faults(report) == [
        FaultDone(at_us=5 * SECOND, ended_at_us=6 * SECOND, kind="disconnect", detail="10 agents, 9 connections")
    ]


@pytest.mark.parametrize(("ticks", "skipped", "rows"), [(100, 0, 700.0), (100, 50, 1050.0), (0, 5, 0.0)])
def test_a_schedule_holds_the_rows_of_skipped_ticks_too(ticks: int, skipped: int, rows: float) -> None:
    """A fleet that leaves ticks out does not make the server look as if it had stored everything."""
    made = {"metrics": 5 * ticks, "logs": 2 * ticks}

    assert scheduled_rows({"rows": made, "ticks": ticks, "skipped_ticks": skipped}) == rows
