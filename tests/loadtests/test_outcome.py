"""What a run that says nothing is told by."""

from pathlib import Path

import pytest

from loadtests.measure import Latency, Series
from loadtests.outcome import hold_against, unanswered
from loadtests.recorded import Recorded
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
    path.write_text(f'question = "q"\n[ui]\n{users}\n')
    recorded = [Recorded(started_at_us=1), Recorded(started_at_us=1, messages=messages, answers=answers)]

    assert unanswered(load(path), recorded) == reasons


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
