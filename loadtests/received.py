"""What came to a browser of logs and containers, to be held against what is stored. Pure."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

SEEN_LINES = 50_000
"""Log lines remembered to recognise one that comes twice; past them the oldest is forgotten."""
SEEN_SAMPLES = 10_000
"""Samples of a container in a topic; past them proof begins later."""

Place = tuple[int, int]
"""(at, line) of a log line."""


class HeldSamples(NamedTuple):
    """Stored samples of a container, held against those that came in a topic."""

    held: int = 0
    """How many were stored between the first that came and the newest, counted by whole intervals."""
    overtaken: int = 0
    """Of those, how many did not come, though newer ones did."""
    undeclared: int = 0
    """Of those and of samples newer than all that came, how many no gap told of."""
    first_us: int = 0
    """Begin of the first interval of which a sample did not come; 0: there is none."""
    behind_us: int = 0
    """Begin of the newest interval of which nothing came, nor anything newer; 0: there is none."""


class Received:
    """Lines of logs and samples of containers, as they came, over one connection or several.

    Places of a log rise: so whatever is stored between the first line and the moment of a check must have come, or stand in
    a gap. So it is with samples, but for the newest one, which must come.
    """

    def __init__(self) -> None:
        self._lines: dict[str, dict[Place, None]] = {}
        """By topic; the tail of a log begins where it says, so its first line is where proof begins."""
        self._first: dict[str, Place] = {}
        self._dropped: dict[str, int] = {}
        self._samples: dict[str, dict[str, deque[int]]] = {}
        """By topic and container."""

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
        """The server told that it left lines or samples out."""
        self._dropped[topic] = self._dropped.get(topic, 0) + dropped

    def sample(self, topic: str, container: str, at_us: int) -> None:
        """A new sample came, by its own time in Unix microseconds."""
        containers = self._samples.setdefault(topic, {})
        if (came := containers.get(container)) is None:
            came = containers[container] = deque(maxlen=SEEN_SAMPLES)
        came.append(at_us)

    def begun(self, topic: str) -> None:
        """A topic of samples begins, or goes on after a while: those of before need not have come."""
        self._samples.pop(topic, None)
        self._dropped.pop(topic, None)

    def last_line(self, topic: str) -> Place | None:
        """Up to where a log has come."""
        return max(self._lines.get(topic, ()), default=None)

    def first_line_us(self, topic: str) -> int | None:
        """From when on a log's lines can be held against what is stored; None: nothing came."""
        first = self._first.get(topic)
        return first[0] if first else None

    def first_sample_us(self, topic: str, container: str) -> int | None:
        """The same for a container's samples in a topic."""
        came = self._samples.get(topic, {}).get(container)
        return came[0] if came else None

    def lost_lines(self, topic: str, stored: Iterable[Place]) -> tuple[int, Place | None]:
        """Of stored lines, how many neither came nor stood in a gap, and the first that did not come."""
        lines, first = self._lines.get(topic, {}), self._first.get(topic)
        missing = [] if first is None else [place for place in stored if place > first and place not in lines]
        return max(0, len(missing) - self._dropped.get(topic, 0)), min(missing, default=None)

    def held_samples(
        self, topic: str, container: str, begins_us: Sequence[int], counts: Sequence[int], step_us: int
    ) -> HeldSamples:
        """Hold stored samples, counted by intervals, against those that came.

        Gaps of a topic name no container: those of a host's count for whichever of its containers is asked for.

        Args:
            topic: of the container or its host.
            container: its id.
            begins_us: of each interval, in Unix microseconds: multiples of its length.
            counts: samples stored in each.
            step_us: length of an interval.
        """
        came = self._samples.get(topic, {}).get(container)
        if not came:
            return HeldSamples()
        first, newest = came[0], came[-1]
        held = overtaken = behind = first_us = behind_us = 0
        by_interval: dict[int, int] = {}
        for at in came:
            by_interval[at // step_us] = by_interval.get(at // step_us, 0) + 1
        for begin, count in zip(begins_us, counts, strict=True):
            if begin > newest:
                behind += count
                behind_us = begin if count else behind_us
            elif begin > first and begin + step_us <= newest:
                lacking = max(0, count - by_interval.get(begin // step_us, 0))
                held += count
                overtaken += lacking
                first_us = first_us or (begin if lacking else 0)
        undeclared = max(0, overtaken + behind - self._dropped.get(topic, 0))
        return HeldSamples(held, overtaken, undeclared, first_us, behind_us)
