"""The directory of a run, and result.json in it."""

import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from loadtests.result import VERSION
from loadtests.result_file import ResultError, create_run_directory, read_result, result_schema, write_result
from tests.support.results import made_result

ROOT = Path(__file__).parents[2]


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    """File and directory lead to the same result, with everything in it."""
    result = made_result(tmp_path, 'ack_latency_ms.p99 = "< 1"', 'after.ack_latency_ms.p99 = "< 10"')
    path = write_result(tmp_path, result)

    assert read_result(path) == result
    assert read_result(tmp_path) == result


def test_a_result_keeps_to_the_schema_that_is_checked_in(tmp_path: Path) -> None:
    """docs/result.schema.json is that of the code (`make result-schema`), and a whole result is valid by it."""
    schema = json.loads((ROOT / "docs" / "result.schema.json").read_text())
    path = write_result(tmp_path, made_result(tmp_path, 'ack_latency_ms.p99 = "< 1"'))

    assert schema == result_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(path.read_text()), schema)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_half_written_result_is_named(tmp_path: Path, share: float) -> None:
    """However much of it is missing, the error says that it is cut off, and which file it is."""
    path = write_result(tmp_path, made_result(tmp_path))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    with pytest.raises(ResultError, match=r"result\.json: expected the whole result of a run; it is cut off"):
        read_result(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"version": VERSION + 1},
            f"version = {VERSION + 1}: written by a newer Seatrial, this one reads version {VERSION}",
        ),
        ({"version": 1}, "version = 1: written by an older Seatrial"),
        ({"version": "two"}, "expected the result of a run"),
        ({"exit_code": "ten"}, f"expected a result of version {VERSION}"),
    ],
)
def test_a_result_of_another_kind_is_refused(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    """A newer or an older version, or another document, is told as such."""
    path = write_result(tmp_path, made_result(tmp_path))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(ResultError, match=sentence):
        read_result(path)


def test_a_missing_result_is_named(tmp_path: Path) -> None:
    """A directory without one, and a path that leads nowhere."""
    for path in (tmp_path, tmp_path / "nowhere.json"):
        with pytest.raises(ResultError, match="cannot be read: No such file"):
            read_result(path)


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """Writing is all or nothing."""
    result = made_result(tmp_path)
    (tmp_path / "run" / "result.json").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        write_result(tmp_path / "run", result)

    assert [file.name for file in (tmp_path / "run").iterdir()] == ["result.json"]


def test_each_run_has_a_directory_and_latest_points_at_the_last(tmp_path: Path) -> None:
    """Runs of the same second do not share one; the link is relative, so that `runs` can be moved."""
    runs = tmp_path / "runs"
    first, second = (create_run_directory(runs, "smoke") for _ in range(2))

    assert first != second
    assert first.name.startswith("smoke-")
    assert (runs / "latest").resolve() == second.resolve()
    assert os.readlink(runs / "latest") == second.name  # noqa: PTH115 - the text of the link
    assert {path.name for path in runs.iterdir()} == {first.name, second.name, "latest"}


def test_latest_is_never_in_the_way(tmp_path: Path) -> None:
    """A directory by that name is not removed: the error is told, and no half-made link stays."""
    (tmp_path / "latest").mkdir()
    with pytest.raises(OSError, match="latest"):
        create_run_directory(tmp_path, "smoke")

    assert (tmp_path / "latest").is_dir()
    assert not list(tmp_path.glob(".latest*"))
