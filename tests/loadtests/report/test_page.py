"""The report as a file: whole by itself, escaped, and with its plots."""

import re
from pathlib import Path

import pytest

from loadtests.report.figures import figures
from loadtests.report.page import render, slowest, write_report
from loadtests.result_file import write_result
from tests.support.command import seatrial
from tests.support.results import HOSTILE, made_result

THRESHOLDS = ('ack_latency_ms.p99 = "< 100"', 'after.ack_latency_ms.p99 = "< 100"', 'server_rss_mb.max = "< 600"')


def test_the_report_is_one_file_with_its_plots(tmp_path: Path) -> None:
    """No script, nothing from elsewhere; a PNG for each figure."""
    result = made_result(tmp_path, *THRESHOLDS)
    page = write_report(result, tmp_path).read_text()

    assert "<script" not in page
    assert not re.search(
        r"""(?:src|href)\s*=\s*["']?(?!#)""", re.sub(r"xlink:href=\"#", "", page).replace('href="#', "")
    )
    assert not re.search(r"url\((?!#)|@import", page)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {f"{figure.key}.png" for figure in figures(result)}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in (tmp_path / "plots").iterdir())


def test_the_verdict_comes_first_and_numbers_lead_to_their_data(tmp_path: Path) -> None:
    """Verdict, then thresholds, then figures; every link of the page has its target."""
    result = made_result(tmp_path, *THRESHOLDS)
    page = render(result, list(figures(result)))
    targets = set(re.findall(r'id="([^"]+)"', page))
    body = page[page.index("<body>") :]

    assert (
        body.index("Threshold failed")
        < body.index("Asked and got")
        < body.index("<svg")
        < body.index("<h2>All metrics")
    )
    assert set(re.findall(r'href="#([^"]+)"', page)) <= targets
    assert ".metrics.ack_latency_ms.hdr" in page
    assert "pg_current_wal_insert_lsn()" in page


def test_text_from_outside_is_text(tmp_path: Path) -> None:
    """A question, a fault's detail, an error and a statement with markup and formulas stay what they are."""
    result = made_result(tmp_path, *THRESHOLDS, question=HOSTILE, hostile=HOSTILE, invalid=(HOSTILE,))
    page = render(result, list(figures(result)))

    assert "<script" not in page
    assert page.count("&lt;script&gt;alert") >= 5


def test_a_run_that_measured_nothing_has_a_report(tmp_path: Path) -> None:
    """Interrupted before the load there are no figures, and the page says so."""
    import msgspec

    result = msgspec.structs.replace(
        made_result(tmp_path), metrics={}, faults=(), phases={}, statements=(), probes=(), load_started_at_us=0,
        load_ended_at_us=0,
    )  # fmt: skip
    page = write_report(result, tmp_path).read_text()

    assert "<svg" not in page
    assert "No latency was measured." in page


def test_the_slowest_moments_name_the_fault(tmp_path: Path) -> None:
    """The four seconds of the fault come first."""
    found = slowest(made_result(tmp_path))

    assert [(round(slow.seconds), slow.during) for slow in found[:4]] == [(i, "server_kill") for i in range(10, 14)]
    assert found[4].during == ""


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read"), (b'{"version": 2, "ver', "cut off")])
async def test_the_command_names_a_result_that_it_cannot_read(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    """Exit 2, one sentence, and no report."""
    path = tmp_path / "result.json"
    if content is not None:
        path.write_bytes(content)
    code, _, err = await seatrial("report", str(path), cwd=tmp_path)

    assert (code, words in err, len(err.splitlines())) == (2, True, 1), err
    assert not (tmp_path / "report.html").exists()


async def test_the_command_writes_the_report(tmp_path: Path) -> None:
    """From a run's directory, beside the result or elsewhere."""
    write_result(tmp_path, made_result(tmp_path, *THRESHOLDS))
    code, out, err = await seatrial("report", ".", "--output", "elsewhere", cwd=tmp_path)

    assert code == 0, err
    assert out.strip() == "elsewhere/report.html"
    assert (tmp_path / "elsewhere" / "plots" / "throughput.png").exists()
