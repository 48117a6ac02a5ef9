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
    done = bench("message", "--seconds", "1", "--rounds", "1", "--json", str(tmp_path / "out.json"))

    assert done.returncode == 0, done.stderr
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


def test_mistakes_are_named(tmp_path: Path) -> None:
    """An unknown component, and a folder that is there already."""
    assert "--pin nobody=0: expected" in bench("message", "--pin", "nobody=0").stderr
    assert "expected a new folder" in bench("message", "--keep", str(tmp_path)).stderr
