"""Benchmarks as users call them, as small as they can be: every figure is there, none of them is judged."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.command import ROOT


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `seatrial bench`."""
    return subprocess.run(
        [sys.executable, "-m", "seatrial", "bench", *arguments], cwd=ROOT, capture_output=True, text=True, check=False,
        timeout=110,
    )  # fmt: skip


def figures(path: Path) -> dict[str, float | None]:
    """The figures by name."""
    return {figure["name"]: figure["value"] for figure in json.loads(path.read_text())["figures"]}


def test_message_stands_beside_two_peers(tmp_path: Path) -> None:
    """CPU per message of the endpoint and of both echoes, and their ratios."""
    done = bench("message", "--seconds", "3", "--rate", "300", "--rounds", "1", "--json", str(tmp_path / "out.json"))

    assert done.returncode in {0, 12}, done.stderr  # 12: a busy machine; the figures are there all the same
    found = figures(tmp_path / "out.json")
    assert all(value is not None and value > 0 for value in found.values())
    ours, echo = found["seatrial: CPU per message"], found["uvicorn echo: CPU per message"]
    assert ours is not None
    assert echo is not None
    assert found["seatrial to uvicorn echo"] == ours / echo


def test_ingest_stands_beside_raw_copy(tmp_path: Path) -> None:
    """Pipeline and raw COPY of the same rows, the ledger verified to its last row."""
    done = bench(
        "ingest", "--agents", "20", "--containers", "3", "--seconds", "7", "--ramp", "1", "--resting", "50", "--json",
        str(tmp_path / "out.json"),
    )  # fmt: skip

    assert done.returncode in {0, 12}, done.stderr  # 12: a busy machine; the figures are there all the same
    found = figures(tmp_path / "out.json")
    missing = [name for name, value in found.items() if value is None]
    assert missing == []
    assert (found["ledger_missing"], found["ledger_foreign"], found["ledger_altered"]) == (0, 0, 0)
    assert found["ledger_verified_fraction"] == 1


def test_fanout_stands_beside_stalled_neighbours(tmp_path: Path) -> None:
    """Two pairs of halves: the readers get everything in both, and what stops reading is closed."""
    done = bench(
        "fanout", "--receivers", "10", "--topics", "6", "--stalled-share", "0.4", "--pairs", "2", "--seconds", "4",
        "--warm-up", "6", "--agents", "5", "--containers", "4", "--json", str(tmp_path / "out.json"),
    )  # fmt: skip

    assert done.returncode in {0, 12}, done.stderr
    found = figures(tmp_path / "out.json")
    assert [name for name, value in found.items() if value is None] == []
    assert found["offered"] == 60
    for kind in ("without", "stalled"):
        assert found[f"deliveries_{kind}"]
        assert found[f"live_p99_{kind}"]
        assert found[f"server_cpu_per_delivery_{kind}"]
    assert found["stalls"]
    assert found["closed_4008"]
    low, middle, high = (found[name] for name in ("p99_ratio_low", "p99_stalled_to_without", "p99_ratio_high"))
    assert low is not None
    assert middle is not None
    assert high is not None
    assert low <= middle <= high
    assert {found["p99_ratio_pair_1"], found["p99_ratio_pair_2"]} == {low, high}


def test_actions_are_all_told_and_audited(tmp_path: Path) -> None:
    """Every attempt ends and has its row; the server's share is the round trip less what a host takes, 50 to 250 ms."""
    done = bench(
        "actions", "--rate", "10", "--agents", "10", "--containers", "4", "--subscribers", "5", "--topics", "3",
        "--seconds", "4", "--ramp", "1", "--json", str(tmp_path / "out.json"),
    )  # fmt: skip

    assert done.returncode in {0, 12}, done.stderr
    found = figures(tmp_path / "out.json")
    assert [name for name, value in found.items() if value is None] == []
    assert (found["attempts"], found["succeeded"], found["audit_rows"]) == (40, 40, 40)
    assert [found[name] for name in ("audit_missing", "audit_duplicate", "audit_wrong", "actions_executed_twice")] == [
        0
    ] * 4
    for key in ("p50", "p99"):
        whole, share = found[f"round_trip_{key}"], found[f"server_share_{key}"]
        assert whole is not None
        assert share is not None
        assert 0 < share < whole
    assert found["live_p99"]


def test_mistakes_are_named(tmp_path: Path) -> None:
    """An unknown component, a folder that is there already, and more topics than there are containers."""
    assert "--pin nobody=0: expected" in bench("message", "--pin", "nobody=0").stderr
    assert "expected a new folder" in bench("message", "--keep", str(tmp_path)).stderr
    assert (
        "--topics 7: expected at most 6"
        in bench("fanout", "--agents", "2", "--containers", "3", "--topics", "7").stderr
    )
    assert (
        "--topics 5: expected at most 4"
        in bench("actions", "--agents", "2", "--containers", "3", "--topics", "5").stderr
    )


def test_charts_stand_beside_those_from_samples(tmp_path: Path) -> None:
    """Every kind of chart has its quantiles, idle and at half load, and a cold one, beside the rate and size of the rollup."""
    done = bench(
        "charts", "--containers", "3", "--hours", "1", "--charts", "10", "--load-seconds", "1", "--json",
        str(tmp_path / "out.json"),
    )  # fmt: skip

    assert done.returncode in {0, 12}, done.stderr  # 12: a busy machine; the figures are there all the same
    found = figures(tmp_path / "out.json")
    assert [name for name, value in found.items() if not value] == []
    shapes = ("15m_raw", "1h_raw", "6h_rollup", "6h_raw", "24h_rollup", "24h_raw")
    kinds = ("p50", "p99", "half_load_p50", "half_load_p99", "cold")
    assert set(found) == {"rolled_up", "bytes_per_minute", "write_full", "write_half"} | {
        f"chart_{shape}_{kind}" for shape in shapes for kind in kinds
    }
    assert "--strategy tape: expected one of plain" in bench("charts", "--strategy", "tape").stderr


def test_storage_strategies_stand_beside_raw_copy(tmp_path: Path) -> None:
    """Each strategy takes the same rows, prunes as many, and every figure is there."""
    done = bench("storage", "--containers", "200", "--window", "20", "--json", str(tmp_path / "out.json"))

    assert done.returncode == 0, done.stderr
    found = figures(tmp_path / "out.json")
    assert [name for name, value in found.items() if not value] == []
    assert {"raw_copy", "plain_prune_by_containers", "plain_full_to_raw", "partitioned_full_to_raw"} <= set(found)
    assert "--strategy tape: expected one of plain" in bench("storage", "--strategy", "tape").stderr
    assert "--window 25: expected a multiple of 10" in bench("storage", "--window", "25").stderr


def test_prunings_stand_beside_the_quiet_around_them(tmp_path: Path) -> None:
    """Every pruning of a pair removed rows, about as many as were stored meanwhile, and each pair has its ratio."""
    done = bench(
        "retention", "--strategy", "partitioned", "--agents", "10", "--containers", "3", "--window", "5", "--interval", "4",
        "--pairs", "2", "--ramp", "1", "--json", str(tmp_path / "out.json"),
    )  # fmt: skip

    assert done.returncode in {0, 12}, done.stderr  # 12: a busy machine; the figures are there all the same
    found = figures(tmp_path / "out.json")
    assert [name for name, value in found.items() if not value] == []
    least, share = found["partitioned_rows_pruned_least"], found["partitioned_pruned_to_stored"]
    assert least is not None
    assert share is not None
    assert least >= 10
    assert 0.5 < share < 1.5
    assert {found["partitioned_p99_ratio_pair_1"], found["partitioned_p99_ratio_pair_2"]} == {
        found["partitioned_p99_ratio_low"], found["partitioned_p99_ratio_high"],
    }  # fmt: skip
    assert "--strategy tape: expected one of plain" in bench("retention", "--strategy", "tape").stderr
    assert "--interval 9: expected less than --window" in bench("retention", "--interval", "9", "--window", "9").stderr


def test_the_simulator_stands_beside_other_generators(tmp_path: Path) -> None:
    """The fleet over both transports and Locust users against the sink; Artillery too, or it is said that it is not here."""
    done = bench(
        "simulator", "--agents", "20", "--websockets-agents", "10", "--users", "5", "--seconds", "2", "--connects", "50",
        "--json", str(tmp_path / "out.json"),
    )  # fmt: skip

    assert done.returncode in {0, 12}, done.stderr
    found = figures(tmp_path / "out.json")
    absent = {name for name, value in found.items() if value is None}
    assert absent <= {name for name in found if name.startswith("artillery")}
    assert not absent or "artillery on PATH" in done.stdout or "node on PATH" in done.stdout
    assert found["cpu_per_message"] != 0
    for name in ("messages", "websockets: messages", "locust: messages"):
        assert found[name] != 0
