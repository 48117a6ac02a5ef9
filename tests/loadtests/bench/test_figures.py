"""The figures of a benchmark, and which cores a component is held to."""

import json
from pathlib import Path

import psutil
import pytest

from loadtests.bench.figures import Figure, Report, median, number, show, write
from loadtests.bench.usage import Component, parse_pins
from loadtests.fingerprint import environment


def report(**fields: object) -> Report:
    """A report of two figures."""
    figures = (Figure(name="a", value=1234.5, unit="1/s"), Figure(name="b", value=None, unit="us", note="not here"))
    made = {"benchmark": "x", "options": {"n": 1}, "environment": environment(), "figures": figures}
    return Report(**made | fields)  # type: ignore[arg-type]


def test_the_table_and_the_json_tell_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each figure with its unit; what could not be measured is a dash there and null here, never a zero."""
    path = tmp_path / "out.json"
    show(report(failures=("rows were lost",)))
    write(report(), path)

    shown = capsys.readouterr().out
    assert [line.split()[:3] for line in shown.splitlines()[2:4]] == [["a", "1,234", "1/s"], ["b", "-", "us"]]
    assert "WORTHLESS: rows were lost" in shown
    written = json.loads(path.read_text())
    assert [figure["value"] for figure in written["figures"]] == [1234.5, None]
    assert written["environment"]["python"]


def test_a_figure_by_name() -> None:
    """One that is missing, or was not measured, is an error."""
    assert report().value("a") == 1234.5
    for name in ("b", "c"):
        with pytest.raises(KeyError):
            report().value(name)


def test_the_middle_value() -> None:
    """Of an even count the mean of the two; of none an error."""
    assert (median([3, 1, 2]), median([4, 1, 2, 3])) == (2, 2.5)
    with pytest.raises(ValueError, match="no values"):
        median([])
    assert (number(None), number(0.123456), number(12345.6)) == ("-", "0.1235", "12,346")


def test_pins() -> None:
    """Cores by component; what is wrong is named."""
    allowed = sorted(psutil.Process().cpu_affinity() or [])
    first = allowed[0]
    assert parse_pins([f"server={first}", f"fleet={first}-{first}"]) == {"server": (first,), "fleet": (first,)}
    for text in ("server", "nobody=0", "server=x", "server=1-0", f"server={allowed[-1] + 1}"):
        with pytest.raises(ValueError, match=f"--pin {text}"):
            parse_pins([text])


def test_a_component_that_is_gone_uses_nothing() -> None:
    """A process that ended costs no CPU and no memory, and is no error."""
    gone = Component("server", 2**22 - 3)

    assert (gone.cpu_seconds(), gone.rss_bytes(), gone.processes()) == (0.0, 0, [])
    assert Component("me", psutil.Process().pid).cpu_seconds() > 0
