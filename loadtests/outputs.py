"""The files that a run leaves for people and for CI."""

import subprocess
from pathlib import Path

from loadtests.children import python
from loadtests.junit import write_junit
from loadtests.markdown import write_markdown
from loadtests.result import Result
from loadtests.result_file import write_result
from loadtests.stage import outer_environment

REPORT_TIMEOUT_SECONDS = 120.0


def write_outputs(directory: Path, result: Result) -> Path:
    """Write `result.json`, `junit.xml` and `summary.md`; the path of the first.

    Raises:
        OSError: one of them cannot be written.
    """
    path = write_result(directory, result)
    write_junit(directory, result)
    write_markdown(directory, result)
    return path


def draw_report(directory: Path) -> str:
    """Let `seatrial report` draw the report of a run, in a process of its own: nothing else needs what draws it.

    Returns:
        Why there is none; empty: there is. A run is judged without it all the same.
    """
    try:
        done = subprocess.run(
            python("seatrial", "report", str(directory)), env=outer_environment(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", timeout=REPORT_TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return f"no report.html: {error}"
    return "" if done.returncode == 0 else f"no report.html: {done.stderr.strip()[-500:]}"
