"""How busy the fleet's own process is: a generator that cannot keep up must not pass for a slow server."""

import time
from collections import deque
from dataclasses import dataclass, field

WINDOW_SECONDS = 5
"""CPU is judged over this long; a single busy second, as at the start, says little."""


@dataclass(slots=True)
class OwnLoad:
    """CPU of this process and lag of its event loop, sampled by the fleet once a second."""

    cpu_last: float = 0.0
    """Fraction of one core over the last second."""
    cpu_max: float = 0.0
    """Highest mean over WINDOW_SECONDS; over the whole time if that was shorter."""
    loop_lag_max_ms: float = 0.0
    generation_seconds: float = 0.0
    """CPU time that making rows took; 0 unless the fleet was told to measure it."""
    ledger_seconds: float = 0.0
    """CPU time that writing the ledger took."""
    _started: tuple[float, float] = field(default_factory=lambda: (time.monotonic(), time.process_time()))
    _window: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=WINDOW_SECONDS + 1))

    def begin(self) -> None:
        """From now on it counts: what was built before is no part of the run."""
        self._started = time.monotonic(), time.process_time()

    def sample(self) -> None:
        """Read the process' CPU time."""
        now = time.monotonic(), time.process_time()
        if not self._window:
            self._window.append(self._started)
        self.cpu_last = _fraction(self._window[-1], now)
        self._window.append(now)
        mean = _fraction(self._window[0], now)
        if len(self._window) > WINDOW_SECONDS:
            self.cpu_max = max(self.cpu_max, mean)
        else:
            self.cpu_max = mean

    def lag(self, seconds: float) -> None:
        """Note by how much a timer of the event loop was late."""
        self.loop_lag_max_ms = max(self.loop_lag_max_ms, seconds * 1000)

    @property
    def cpu_seconds(self) -> float:
        """CPU time since the start."""
        return time.process_time() - self._started[1]

    @property
    def cpu_mean(self) -> float:
        """Fraction of one core since the start."""
        return _fraction(self._started, (time.monotonic(), time.process_time()))


def _fraction(since: tuple[float, float], until: tuple[float, float]) -> float:
    wall = until[0] - since[0]
    return (until[1] - since[1]) / wall if wall > 0 else 0.0
