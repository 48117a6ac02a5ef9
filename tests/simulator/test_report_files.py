"""The reports of several machines become one, and what is no report of the same fleet is refused."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from seatrial import app
from simulator.merge import add_reports
from tests.simulator.test_merge import of_two_shards


@pytest.fixture(scope="module")
async def reports() -> list[dict[str, Any]]:
    """Of both shards of a fleet of three agents; what their machine may have made of them left out."""
    return [one | {"invalid": []} for one in await of_two_shards()]


def written(directory: Path, *reports: dict[str, Any]) -> list[str]:
    """Their files."""
    paths = [directory / f"{number}.json" for number, _ in enumerate(reports)]
    for path, report in zip(paths, reports, strict=True):
        path.write_bytes(msgspec.json.encode(report))
    return [str(path) for path in paths]


def test_two_machines_make_one_report(reports: list[dict[str, Any]], tmp_path: Path) -> None:
    """Whatever their order the whole is what processes of one machine would have told, in the file or on the output."""
    first, second = reports
    files = written(tmp_path, second, first)
    output = tmp_path / "whole.json"
    done = CliRunner().invoke(app, ["merge-reports", *files, "--output", str(output)])
    shown = CliRunner().invoke(app, ["merge-reports", *files])

    assert (done.exit_code, shown.exit_code) == (0, 0), done.output
    assert json.loads(output.read_text()) == json.loads(shown.output) == json.loads(json.dumps(add_reports(reports)))


def test_machines_may_have_several_processes(reports: list[dict[str, Any]], tmp_path: Path) -> None:
    """A report that is merged already is taken apart into its processes, and its reasons keep their shard's name."""
    thirds = [
        reports[0] | {"shard": f"{number}/3", "first_agent": number, "agents": 1, "invalid": [f"late {number}"]}
        for number in (1, 2, 3)
    ]
    done = CliRunner().invoke(app, ["merge-reports", *written(tmp_path, add_reports(thirds[:2]), thirds[2])])
    whole = json.loads(done.stdout)

    assert done.exit_code == 12
    assert [process["shard"] for process in whole["processes"]] == ["1/3", "2/3", "3/3"]
    assert whole["invalid"] == ["shard 1/3: late 1", "shard 2/3: late 2", "shard 3/3: late 3"]
    assert whole["agents"] == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 6}, "1.json: seed = 6: expected 5, as in "),
        ({"interval_ms": 200.0}, "1.json: interval_ms = 200.0: expected 100.0, as in "),
        ({"agents": 7}, "expected 4 from 1 on, if all are of one fleet of 8"),
        ({"first_agent": 9}, "1.json: agents = 2 from 9 on in shard 2/2: expected 2 from 2 on"),
        ({"shard": "1/2"}, "1.json: shard = 1/2: expected no agents of shard 1/2, which "),
        ({"shard": "2/4"}, "1.json: shard = 2/4: expected no agents of shard 1/2, which "),
        ({"shard": "3/3"}, "shards = 1/2, 3/3: expected all shards of the fleet, a report of each"),
        ({"shard": "0/2"}, "1.json: shard = 0/2: expected a shard such as 2/3"),
        ({"started_us": 2**60}, f"1.json: started_us = {2**60}: expected a start before "),
        ({"version": 9}, "1.json: version = 9: expected 1"),
        ({"stopped_us": None}, "1.json: Expected `int`, got `null` - at `$.stopped_us`: expected a whole file"),
        ({"more": 1}, "1.json: keys = "),
    ],
)
def test_what_is_not_of_one_fleet_is_refused(
    reports: list[dict[str, Any]], tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    """The message names the file, its value, and what the others have."""
    first, second = reports
    done = CliRunner().invoke(app, ["merge-reports", *written(tmp_path, first, second | change)])

    assert done.exit_code == 2
    assert words in done.output


def test_half_a_file_is_no_report(reports: list[dict[str, Any]], tmp_path: Path) -> None:
    """One that a killed fleet left, one that is another's, one that is not there, and one shard alone."""
    half, good = map(Path, written(tmp_path, *reports))
    good.rename(whole := tmp_path / "whole.json")
    half.write_bytes(half.read_bytes()[:1000])
    other = tmp_path / "other.json"
    other.write_text("{}")

    for path, words in (
        (half, "0.json: Input data was truncated: expected a whole file of `seatrial simulate --report`"),
        (other, "other.json: Object missing required field `version`: expected a whole file"),
        (tmp_path / "none.json", "none.json: No such file or directory: expected a whole file"),
        (whole, "expected no agents of shard 2/2, which "),
    ):
        done = CliRunner().invoke(app, ["merge-reports", str(whole), str(path)])
        assert done.exit_code == 2
        assert words in done.output
    alone = CliRunner().invoke(app, ["merge-reports", str(whole)])
    assert "shards = 2/2: expected all shards of the fleet, a report of each" in alone.output


def test_an_output_that_cannot_be_written_is_told(reports: list[dict[str, Any]], tmp_path: Path) -> None:
    """With the code of a broken environment."""
    done = CliRunner().invoke(app, ["merge-reports", *written(tmp_path, *reports), "--output", str(tmp_path)])

    assert done.exit_code == 3
    assert f"output = {tmp_path}: Is a directory: expected a file that can be written" in done.output
