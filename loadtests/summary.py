"""The verdict for people: the table at the end of a run."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadtests.numbers import number
from loadtests.offered import offered, warm_up
from loadtests.result import Result
from loadtests.thresholds import Judged

_COLUMNS = ("metric", "value", "unit", "limit", "", "")


def show(result: Result, path: Path, stream: TextIO | None = None) -> None:
    """Write the table of thresholds, the load, what made the run invalid, the verdict, and where `result.json` is.

    Args:
        result: the run's outcome.
        path: of `result.json`.
        stream: standard output by default. A terminal gets colours, anything else aligned plain text.
    """
    stream = stream or sys.stdout
    console = Console(file=stream, highlight=False, soft_wrap=True)
    rows = [_row(threshold, _marks(stream)) for threshold in result.thresholds]
    last = f"{result.verdict} (exit {result.exit_code})"
    if not console.is_terminal:
        stream.write(_plain(rows) + _notes(result) + f"{last}  {path}\n")
        return
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="right" if column == "value" else "left", overflow="fold")
    for threshold, row in zip(result.thresholds, rows, strict=True):
        table.add_row(*map(Text, row), style="" if threshold.passed else "red")
    console.print(table)
    console.print(Text(_notes(result)), end="")
    console.print(Text(last, "bold green" if result.exit_code == 0 else "bold red"), Text(str(path)))


def _row(threshold: Judged, marks: Mapping[bool, str]) -> tuple[str, ...]:
    value = "-" if threshold.value is None else number(threshold.value)
    return threshold.key, value, threshold.unit, threshold.limit, marks[threshold.passed], threshold.reason


def _marks(stream: TextIO) -> dict[bool, str]:
    marks = {True: "\N{CHECK MARK}", False: "\N{BALLOT X}"}
    try:
        "".join(marks.values()).encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return {True: "ok", False: "FAILED"}
    return marks


def _plain(rows: Sequence[tuple[str, ...]]) -> str:
    lines = [_COLUMNS, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    text = ""
    for line in lines:
        cells = [
            cell.rjust(width) if i == 1 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text += "  ".join(cells).rstrip() + "\n"
    return text


def _notes(result: Result) -> str:
    """What the table of thresholds does not tell: load, warm-up, and the reasons for which the run is invalid."""
    notes = [load.told() for load in offered(result)]
    notes += filter(None, [warm_up(result)])
    notes += [reason for reason in result.reasons if reason.startswith("invalid: ")]
    return "".join(f"{note}\n" for note in notes)
