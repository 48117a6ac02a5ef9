"""What must hold of the API's answers."""

from typing import Any

import msgspec
import pytest

from loadtests.answers import (
    CHART_VALUES,
    Chart,
    DownloadedLine,
    audit_disorder,
    csv_ids,
    json_lines,
    log_disorder,
)


def chart(points: int = 3, **changes: Any) -> Chart:
    """A chart whose last bucket has no samples."""
    at = [10_000_000 * i for i in range(points)]
    values: list[float | None] = [1.0] * (points - 1) + [None]
    fields: dict[str, Any] = {"step_seconds": 10, "at": at, "samples": [2] * (points - 1) + [0]}
    fields |= {name: list(values) for name in CHART_VALUES}
    return msgspec.convert(fields | changes, Chart)


def test_a_good_chart_is_good() -> None:
    """Equal lengths, rising times, null where no sample was."""
    assert chart().wrong_shape() == ""
    assert not chart().empty
    assert chart(400).wrong_shape() == ""


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (chart(401), "401 points: expected at most 400"),
        (chart(cpu_max=[1.0]), "cpu_max has 1 values: expected 3, as at has"),
        (chart(samples=[]), "samples has 0 values"),
        (chart(at=[1, 3, 3]), "at: expected rising times"),
        (chart(mem_mean=[1, 1, 0]), "point 2 has values and samples = 0"),
    ],
)
def test_a_wrong_chart_is_told(wrong: Chart, sentence: str) -> None:
    """Lengths, number, order, and values out of nothing: 0 is not null."""
    assert wrong.wrong_shape().startswith(sentence)


def test_a_chart_without_values_is_empty() -> None:
    """Nulls alone are no data, and neither is a chart of no points."""
    assert chart(mem_mean=[None] * 3).empty
    assert chart(0, at=[], samples=[], **{name: [] for name in CHART_VALUES}).empty


@pytest.mark.parametrize(("ids", "good"), [([], 1), ([5], 1), ([5, 3, 1], 1), ([5, 5], 0), ([3, 5], 0)])
def test_audit_entries_fall(ids: list[int], good: int) -> None:
    """Newest first, none twice."""
    assert (audit_disorder(ids) == "") == bool(good)


def test_ids_of_a_csv() -> None:
    """Quoted fields with line ends and commas are fields."""
    body = b'id,at,reason\r\n9,1,"a, ""b""\r\nc"\r\n7,1,x\r\n'

    assert csv_ids(body) == [9, 7]
    assert csv_ids(b"id,at,reason\r\n") == []


@pytest.mark.parametrize(
    "body", [b"at\r\n1\r\n", b"id,at\r\n1\r\n", b"id\r\n1,2\r\n", b"id\r\nx\r\n", b"", b"<html>", b'id\r\n"1', b"\xff"]
)
def test_what_is_no_audit_csv_is_refused(body: bytes) -> None:
    """No id, too few or too many fields, no number, an open quote, no UTF-8."""
    with pytest.raises(ValueError):  # noqa: PT011 - each has a sentence of its own
        csv_ids(body)


def test_lines_of_a_download() -> None:
    """One object a line; an empty download has none."""
    lines = list(json_lines(b'{"at":1,"line":0,"text":"a\\nb"}\n{"at":1,"line":1,"text":""}\n'))

    assert [(line.at, line.line) for line in lines] == [(1, 0), (1, 1)]
    assert list(json_lines(b"")) == []
    with pytest.raises(ValueError, match="line 2"):
        list(json_lines(b'{"at":1,"line":0}\nnull\n'))


@pytest.mark.parametrize(
    ("keys", "good"),
    [
        ([], 1),
        ([(5, 0), (5, 1), (6, 0)], 1),
        ([(5, 1), (5, 0)], 0),
        ([(5, 0), (5, 0)], 0),
        ([(4, 0)], 0),
        ([(9, 0)], 0),
    ],
)
def test_downloaded_lines_rise_within_the_time(keys: list[tuple[int, int]], good: int) -> None:
    """By (at, line), strictly, from 5 to before 9."""
    lines = [DownloadedLine(at=at, line=line) for at, line in keys]

    assert (log_disorder(lines, 5, 9) == "") == bool(good)
