"""What came to a browser of one log and one container, to be held against what is stored. Pure."""

from collections import deque
from collections.abc import Iterable, Sequence

SEEN_LINES = 50_000
"""Log lines remembered to recognise one that comes twice; past them the oldest is forgotten."""
SEEN_SAMPLES = 10_000

Place = tuple[int, int]
"""(at, line) of a log line."""


class Received:
    """Lines of logs and samples of containers, as they came, over one connection or several.

    Places of a log rise: so whatever is stored between the first line and the moment of a check must have come, or stand in
    a gap. Samples may be overtaken by newer ones, but the newest must come.
    """

    def __init__(self) -> None:
        self._lines: dict[str, dict[Place, None]] = {}
        """By topic; the tail of a log begins where it says, so its first line is where proof begins."""
        self._first: dict[str, Place] = {}
        self._dropped: dict[str, int] = {}
        self._samples: dict[str, deque[int]] = {}

    def line(self, topic: str, place: Place) -> bool:
        """A line came; False: once more."""
        lines = self._lines.setdefault(topic, {})
        if place in lines:
            return False
        lines[place] = None
        self._first[topic] = min(place, self._first.get(topic, place))
        if len(lines) > SEEN_LINES:
            del lines[next(iter(lines))]
            self._first[topic] = next(iter(lines))
        return True

    def gap(self, topic: str, dropped: int) -> None:
        """The server told that it dropped lines here."""
        self._dropped[topic] = self._dropped.get(topic, 0) + dropped

    def samples(self, topic: str, times_us: Iterable[int]) -> None:
        """New samples came, by their own time in Unix microseconds."""
        self._samples.setdefault(topic, deque(maxlen=SEEN_SAMPLES)).extend(times_us)

    def interrupted(self, topic: str) -> None:
        """Samples were not wanted for a while: those of that time need not have come."""
        self._samples.pop(topic, None)

    def last_line(self, topic: str) -> Place | None:
        """Up to where a log has come."""
        return max(self._lines.get(topic, ()), default=None)

    def begins_us(self, log: str, container: str) -> tuple[int | None, int | None]:
        """From when on a log's lines, and a container's samples, can be held against what is stored; None: nothing came."""
        first, samples = self._first.get(log), self._samples.get(container)
        return first[0] if first else None, samples[0] if samples else None

    def lost_lines(self, topic: str, stored: Iterable[Place]) -> tuple[int, Place | None]:
        """Of stored lines, how many neither came nor stood in a gap, and the first that did not come."""
        lines, first = self._lines.get(topic, {}), self._first.get(topic)
        missing = [] if first is None else [place for place in stored if place > first and place not in lines]
        return max(0, len(missing) - self._dropped.get(topic, 0)), min(missing, default=None)

    def lost_samples(
        self, topic: str, begins_us: Sequence[int], counts: Sequence[int], step_us: int
    ) -> tuple[int, int]:
        """Of stored samples, counted by intervals.

        Args:
            topic: of the container.
            begins_us: of each interval, in Unix microseconds.
            counts: samples stored in each.
            step_us: length of an interval.

        Returns:
            How many were overtaken by newer ones; and the begin of the newest interval of which nothing came, nor anything
            newer: 0: there is none.
        """
        came = self._samples.get(topic)
        if not came:
            return 0, 0
        first, newest = came[0], came[-1]
        overtaken = behind_us = 0
        by_interval: dict[int, int] = {}
        for at in came:
            by_interval[at // step_us] = by_interval.get(at // step_us, 0) + 1
        for begin, count in zip(begins_us, counts, strict=True):
            if begin > newest:
                behind_us = begin if count else behind_us
            elif begin > first and begin + step_us <= newest:
                overtaken += max(0, count - by_interval.get(begin // step_us, 0))
        return overtaken, behind_us
