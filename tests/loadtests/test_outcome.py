"""What a run that says nothing is told by."""

from collections import Counter
from pathlib import Path

import pytest

from loadtests.findings import Findings
from loadtests.measure import Latency, Series
from loadtests.outcome import Outcome, explained, hold_against, unanswered
from loadtests.recorded import Recorded, first_violations
from loadtests.thresholds import judge
from simulator.scenario import load

NO_MESSAGE = "browsers got no live message at all"
NO_ANSWER = "users of the API got no good answer at all"


@pytest.mark.parametrize(
    ("users", "messages", "answers", "reasons"),
    [
        ("subscribers = 1\nchart_readers = 1", 0, 0, [NO_MESSAGE, NO_ANSWER]),
        ("subscribers = 1\nchart_readers = 1", 1, 1, []),
        ("slow = 1", 0, 5, [NO_MESSAGE]),
        ("chart_readers = 1", 0, 0, [NO_ANSWER]),
        ("subscribers = 1", 3, 0, []),
    ],
)
def test_users_whom_nobody_answered_say_nothing(
    tmp_path: Path, users: str, messages: int, answers: int, reasons: list[str]
) -> None:
    """Browsers without a message and API users without an answer make a run invalid, over all Locust processes together."""
    path = tmp_path / "x.toml"
    path.write_text(f'question = "q"\nduration = "30s"\n[ui]\n{users}\n')
    recorded = [Recorded(started_at_us=1), Recorded(started_at_us=1, messages=messages, answers=answers)]

    assert unanswered(load(path), recorded) == reasons


SHORT_RETENTION = """duration = "1m"
ui = { subscribers = 1 }
fleet = { interval = "2s" }
storage = { retention = "10s", prune_interval = "1s" }"""


@pytest.mark.parametrize(
    ("keys", "checked", "held", "invalid"),
    [
        ('duration = "31s"\n[ui]\nsubscribers = 1', 0, 0, True),
        ('duration = "31s"\n[ui]\nreconnecting = 1', 0, 0, False),
        ('duration = "40s"\n[ui]\nreconnecting = 1', 0, 0, True),
        ('duration = "40s"\n[ui]\nreconnecting = 1', 1, 0, False),
        ('duration = "5m"\n[ui]\nsubscribers = 1\nvisit = "1h"', 0, 0, False),
        (SHORT_RETENTION, 1, 0, False),
        ('duration = "31s"\n[ui]\nsubscribers = 1', 1, 0, True),
        ('duration = "31s"\n[ui]\nsubscribers = 1', 1, 1, False),
        ('duration = "31s"\n[ui]\nsubscribers = 1\n[fleet]\ninterval = "5s"', 1, 0, False),
        ('duration = "31s"\n[ui]\nsubscribers = 1\n[fleet]\ninterval = "5s"', 0, 0, True),
        ('duration = "31s"\n[ui]\nslow = 1', 0, 0, False),
        ('duration = "30s"\n[ui]\nsubscribers = 1', 0, 0, False),
    ],
)
def test_what_no_browser_checked_has_not_passed(
    tmp_path: Path, keys: str, checked: int, held: int, invalid: bool
) -> None:
    """A run of over 30 s in which nobody held what came against what is stored says nothing of delivery."""
    path = tmp_path / "x.toml"
    path.write_text(f'question = "q"\n{keys}\n')
    recorded = [Recorded(started_at_us=1, messages=1), Recorded(started_at_us=1, checked=checked, held=held)]

    assert bool(unanswered(load(path), recorded)) == invalid


@pytest.mark.parametrize(
    ("claimed", "told", "slow_closed", "live_errors"),
    [(5.0, 3.0, 3.0, 3.0), (5.0, 5.0, 5.0, 1.0), (5.0, 9.0, 5.0, 1.0)],
)
def test_a_lost_connection_is_not_closed_for_slowness(
    claimed: float, told: float, slow_closed: float, live_errors: float
) -> None:
    """Closes that the server does not count as slow are errors, and the run says so; browsers may not have seen them all."""
    measured: dict[str, Latency | Series | float] = {"slow_closed": claimed, "live_errors": 1.0}
    note = hold_against(measured, told)

    assert measured == {"slow_closed": slow_closed, "live_errors": live_errors}
    assert bool(note) == (claimed > told)


def test_without_slow_browsers_there_is_nothing_to_doubt() -> None:
    """No metric is made that the scenario cannot measure."""
    measured: dict[str, Latency | Series | float] = {}

    assert hold_against(measured, 0.0) == ""
    assert measured == {}


def test_a_broken_promise_is_told_with_its_first_example(tmp_path: Path) -> None:
    """The reason names what did not come, and where; thresholds that held, or have no example, are left as they are."""
    path = tmp_path / "x.toml"
    path.write_text('question = "q"\n[ui]\nsubscribers = 1\n')
    first = {"undeclared_sample": "container 7 in container:7: 1 of 9", "http": "500"}
    examples = first_violations(
        [Recorded(started_at_us=1), Recorded(started_at_us=1, first_failures=first), Recorded(started_at_us=1)]
    )
    judged = explained(judge(load(path), {"live_violations": 1.0, "live_foreign": 0.0}), examples)
    reasons = {one.metric: one.reason for one in judged}

    assert reasons["live_violations"] == "1 is not == 0: undeclared_sample: container 7 in container:7: 1 of 9"
    assert reasons["live_foreign"] == ""
    assert reasons["live_errors"] == "no samples"


@pytest.mark.parametrize(
    ("acked", "missing", "scheduled", "fraction"),
    [(1000, 0, 1000.0, 1.0), (1000, 10, 1000.0, 0.99), (900, 0, 1000.0, 0.9), (0, 0, 0.0, None)],
)
def test_what_is_stored_is_told_of_what_was_scheduled(
    tmp_path: Path, acked: int, missing: int, scheduled: float, fraction: float | None
) -> None:
    """Acked rows that are not missing, of the fleet's schedule; unknown where the fleet left no report."""
    path = tmp_path / "x.toml"
    path.write_text('question = "q"\n[thresholds]\nstored_fraction.value = ">= 0.995"\n')
    findings = Findings(Counter(missing=missing), verified=acked, acked=acked)
    outcome = Outcome(load(path), tmp_path, findings=findings, scheduled_rows=scheduled)
    (judged,) = [one for one in outcome.result().thresholds if one.metric == "stored_fraction"]

    assert judged.value == fraction
    assert judged.passed == (fraction == 1.0)
