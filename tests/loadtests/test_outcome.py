"""What a run that says nothing is told by."""

from pathlib import Path

import pytest

from loadtests.outcome import unanswered
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
