"""The fleet's own load."""

from collections import deque

import pytest

from simulator.load import WINDOW_SECONDS, OwnLoad


def test_cpu_is_judged_over_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """One busy second in five is a fifth of a core; five busy ones are a whole one."""
    seconds = deque([(0.0, 0.0)])
    for busy in (0, 0, 0, 0, 1, 0, 0, 0, 0, 0):
        seconds.append((seconds[-1][0] + 1, seconds[-1][1] + busy))
    monkeypatch.setattr("simulator.load.time.monotonic", lambda: seconds[0][0])
    monkeypatch.setattr("simulator.load.time.process_time", lambda: seconds[0][1])
    load = OwnLoad()
    while len(seconds) > 1:
        seconds.popleft()
        load.sample()

    assert load.cpu_max == pytest.approx(1 / WINDOW_SECONDS)
    assert load.cpu_last == 0
    assert load.cpu_mean == pytest.approx(0.1)


def test_the_worst_lag_is_kept() -> None:
    """The longest delay of a timer is told in milliseconds."""
    load = OwnLoad()
    for seconds in (0.001, 0.02, 0.0):
        load.lag(seconds)

    assert load.loop_lag_max_ms == 20.0
