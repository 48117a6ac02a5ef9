"""The summary for a comment of a CI."""

from pathlib import Path

from loadtests.markdown import markdown, write_markdown
from tests.support.results import made_result


def test_it_tells_the_verdict_first_and_what_failed_first(tmp_path: Path) -> None:
    """A heading with the verdict, the reason, then the table with failures at its top."""
    result = made_result(tmp_path, 'ack_latency_ms.p99 = "< 100"')
    lines = markdown(result).splitlines()
    rows = [line for line in lines if line.startswith("| ")]

    assert lines[0].endswith("made: THRESHOLD_FAILED (exit 10)")
    assert r"- ack\_latency\_ms.p99 \< 100: " in "\n".join(lines)
    assert r"ack\_latency\_ms.p99" in rows[1]
    assert len(rows) == len(result.thresholds) + 1
    assert any(
        line.startswith(f"{len(result.thresholds) - 1} of {len(result.thresholds)} thresholds held.") for line in lines
    )


def test_text_from_outside_is_no_markup(tmp_path: Path) -> None:
    """Names and questions neither break the table nor mention anybody nor become links or images."""
    result = made_result(tmp_path, question="![x](http://x) | @team <img src=x>", invalid=("`a`\n| b |",))
    text = write_markdown(tmp_path, result).read_text()

    assert "![x]" not in text
    assert "@team" not in text
    assert r"\<img src=x\>" in text
    assert r"- invalid: \`a\` \| b \|" in text
