"""The figures of a benchmark: named, with units, shown as a table and written as JSON."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from loadtests.fingerprint import Environment

VERSION = 1
"""Of the layout of the JSON."""


class Figure(Struct, frozen=True, kw_only=True):
    """One number, and how it came about."""

    name: str
    value: float | None
    """None: it could not be measured here; `note` says why."""
    unit: str
    note: str = ""


class Report(Struct, frozen=True, kw_only=True):
    """What a benchmark found."""

    benchmark: str
    options: dict[str, Any]
    environment: Environment
    figures: tuple[Figure, ...]
    failures: tuple[str, ...] = ()
    """What makes the figures worthless: rows lost, a generator that was the bottleneck. Empty: they stand."""
    version: int = VERSION

    def value(self, name: str) -> float:
        """A figure by name.

        Raises:
            KeyError: there is none, or it was not measured.
        """
        for figure in self.figures:
            if figure.name == name and figure.value is not None:
                return figure.value
        raise KeyError(name)


def options_told(options: Any) -> dict[str, Any]:
    """Options as a report holds them: all but a database's address, which may have a password in it."""
    told: dict[str, Any] = msgspec.to_builtins(options)
    if told.get("database_url") is not None:
        told["database_url"] = "given"
    return told


def show(report: Report) -> None:
    """Write the table."""
    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, title=f"bench {report.benchmark}", title_justify="left")
    table.add_column("figure", min_width=max((len(figure.name) for figure in report.figures), default=0))
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("")
    for figure in report.figures:
        table.add_row(figure.name, number(figure.value), figure.unit, figure.note)
    console.print(table)
    for failure in report.failures:
        console.print(f"WORTHLESS: {failure}", style="red")


def write(report: Report, path: Path) -> None:
    """Write the JSON.

    Raises:
        OSError: it cannot be written.
    """
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def number(value: float | None) -> str:
    """A value for people: four significant digits, thousands apart."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def median(values: Iterable[float]) -> float:
    """The middle value; of an even count the mean of the two.

    Raises:
        ValueError: there is none.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
