"""JUnit XML for CI."""

from pathlib import Path
from xml.etree import ElementTree as ET  # of documents that we made

from loadtests.junit import junit, write_junit
from tests.support.results import HOSTILE, made_result


def test_each_threshold_is_a_case(tmp_path: Path) -> None:
    """Failed ones are failures with their reason; the counts agree with the cases."""
    result = made_result(tmp_path, 'ack_latency_ms.p99 = "< 100"', 'after.ack_latency_ms.p99 = "< 100"')
    suite = ET.fromstring(junit(result))[0]  # noqa: S314
    cases = {case.get("name"): case for case in suite.iter("testcase")}

    assert len(cases) == len(result.thresholds) + 1 == int(suite.get("tests", ""))
    failed = cases["ack_latency_ms.p99 < 100"].find("failure")
    assert failed is not None
    assert "is not < 100" in str(failed.get("message"))
    assert cases["after.ack_latency_ms.p99 < 100"].find("failure") is None
    assert (suite.get("failures"), suite.get("errors")) == ("1", "0")


def test_an_invalid_run_is_an_error(tmp_path: Path) -> None:
    """What made it say nothing is an error, and no failure of a threshold."""
    suite = ET.fromstring(junit(made_result(tmp_path, invalid=("the fleet was late",))))[0]  # noqa: S314
    error = next(suite.iter("error"))

    assert (suite.get("failures"), suite.get("errors")) == ("0", "1")
    assert error.get("message") == "invalid: the fleet was late"


def test_text_from_outside_does_not_break_the_document(tmp_path: Path) -> None:
    """Markup and control characters of a reason can be read back, or are replaced."""
    result = made_result(tmp_path, invalid=(f"{HOSTILE} \x00\x1b[31m \ud800",))
    path = write_junit(tmp_path, result)
    message = str(next(ET.parse(path).getroot().iter("error")).get("message"))  # noqa: S314

    assert HOSTILE in message
    assert "\x1b" not in message
