"""JUnit XML of a run, for CI: a case for each threshold."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET  # written here, never read

from loadtests.numbers import number
from loadtests.result import Result
from loadtests.result_file import write_whole
from loadtests.thresholds import Judged

NAME = "junit.xml"
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_junit(directory: Path, result: Result) -> Path:
    """Write `junit.xml` into `directory`, whole or not at all.

    A threshold that failed is a failure. What made the run say nothing, or ended it early, is an error of a case of its own.

    Raises:
        OSError: it cannot be written.
    """
    path = directory / NAME
    write_whole(path, junit(result))
    return path


def junit(result: Result) -> bytes:
    """The document."""
    invalid = [reason for reason in result.reasons if reason.startswith("invalid: ")]
    if result.verdict == "INTERRUPTED":
        invalid.append("the run was interrupted: its results are partial")
    failed = sum(not threshold.passed for threshold in result.thresholds)
    cases = len(result.thresholds) + 1
    counts = {"tests": str(cases), "failures": str(failed), "errors": str(int(bool(invalid)))}
    seconds = f"{result.duration_seconds:.3f}"
    suites = ET.Element("testsuites", {**counts, "time": seconds})
    suite = ET.SubElement(
        suites, "testsuite", {"name": _text(f"seatrial.{result.scenario.name}"), **counts, "skipped": "0", "time": seconds}
    )  # fmt: skip
    properties = ET.SubElement(suite, "properties")
    for name, value in {"verdict": result.verdict, "exit_code": result.exit_code, "seed": result.seed}.items():
        ET.SubElement(properties, "property", {"name": name, "value": str(value)})
    case = _case(suite, result, "the run is valid")
    if invalid:
        ET.SubElement(case, "error", {"message": _text(invalid[0])}).text = _text("\n".join(invalid))
    for threshold in result.thresholds:
        case = _case(suite, result, f"{threshold.key} {threshold.limit}")
        if not threshold.passed:
            ET.SubElement(case, "failure", {"message": _text(threshold.reason)}).text = _text(_told(threshold))
        else:
            ET.SubElement(case, "system-out").text = _text(_told(threshold))
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'.encode()


def _case(suite: ET.Element, result: Result, name: str) -> ET.Element:
    return ET.SubElement(
        suite, "testcase", {"classname": _text(f"seatrial.{result.scenario.name}"), "name": _text(name), "time": "0"}
    )


def _told(threshold: Judged) -> str:
    value = "no samples" if threshold.value is None else f"{number(threshold.value)} {threshold.unit}".strip()
    return f"{threshold.key} = {value}, expected {threshold.limit}"


def _text(text: str) -> str:
    """What XML may hold: other control characters would make the document unreadable."""
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
