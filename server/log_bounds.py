"""How many bytes of log a container may have: counted as lines come, in segments, without asking the database.

Each accepted line adds its bytes to its container's open count. At a sixteenth of the bound the count is sealed into a
segment: so many bytes up to the time of the newest line. When the segments pass the bound, the oldest are dropped, and
storage removes what is not later than them. So a container keeps between fourteen sixteenths of its bound and all of it.

Lines that come late (not later than the newest one) may be stored already: an agent that reads a log again sends them again.
Memory cannot tell, so they are counted apart, and after a sixteenth of the bound the container's lines are counted in storage.

Segments and open counts are written behind, the open ones each time they grew by a 256th of the bound: that much of a
container is forgotten at worst when the server is killed.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from server.agents import TrackedContainer

SEGMENTS = 16
MARKS = 256


class Segment(NamedTuple):
    """So many bytes of lines after the segment before, up to a time (Unix microseconds)."""

    until: int
    bytes: int


class LogBounds:
    """Counts of every container. Plain functions: nothing here waits; `server.db.log_bounds` does the work they ask for."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._segment_bytes = limit_bytes // SEGMENTS
        self._mark_bytes = limit_bytes // MARKS
        self._segments: dict[int, list[Segment]] = {}
        """By container, oldest first. At most `SEGMENTS` each."""
        self.due: dict[int, int] = {}
        """Containers past their bound, and the time up to which their lines must go."""
        self.uncertain: dict[int, TrackedContainer] = {}
        """Containers whose lines must be counted in storage."""
        self.dirty: dict[int, TrackedContainer] = {}
        """Containers whose counts are not written as they are now."""

    def grown(self, container: TrackedContainer) -> None:
        """A container's open count reached its mark: remember to write it, and seal it if it is a segment."""
        if container.log_bytes < self._mark_bytes:
            container.log_mark = self._mark_bytes
            return
        self.dirty[container.id] = container
        if container.log_bytes >= self._segment_bytes:
            self._seal(container)
        container.log_mark = container.log_bytes + self._mark_bytes

    def came_late(self, container: TrackedContainer, size: int) -> None:
        """A line came that is not later than the newest one."""
        container.late_log_bytes += size
        if container.late_log_bytes >= self._segment_bytes:
            container.late_log_bytes = 0
            self.uncertain[container.id] = container

    def pruned(self, container_id: int, until: int) -> None:
        """The lines of a container up to `until` are gone."""
        if self.due.get(container_id) == until:
            del self.due[container_id]

    def segments(self, container_id: int) -> Sequence[Segment]:
        """The sealed segments of a container, oldest first."""
        return self._segments.get(container_id, ())

    def recounted(self, container: TrackedContainer, bounds: Sequence[int], sizes: Sequence[int]) -> None:
        """What storage found: bytes between `bounds`, and after the last of them.

        Segments that were sealed or dropped since they were read keep what they are.
        """
        found = dict(zip(bounds, sizes, strict=False))
        segments = self._segments.get(container.id, [])
        for index, segment in enumerate(segments):
            segments[index] = Segment(segment.until, found.get(segment.until, segment.bytes))
        if [segment.until for segment in segments[-1:]] == list(bounds[-1:]):
            # What is on its way is counted here and not there yet.
            container.log_bytes = max(container.log_bytes, sizes[-1])
        self._bound(container.id)
        self.grown(container)

    def expire(self, before: int) -> None:
        """Lines older than `before` (Unix microseconds) are gone by age."""
        for container_id in [key for key, segments in self._segments.items() if segments[0].until < before]:
            left = [segment for segment in self._segments[container_id] if segment.until >= before]
            if left:
                self._segments[container_id] = left
            else:
                del self._segments[container_id]

    def load(self, container_id: int, container: TrackedContainer | None, segments: Iterable[Segment]) -> None:
        """Take up what an earlier process counted, oldest first; `container` is None if it is gone."""
        known = list(segments)
        if container is not None:
            if known and known[-1].bytes < self._segment_bytes:
                container.log_bytes = known.pop().bytes
            container.log_mark = container.log_bytes + self._mark_bytes
        if known:
            self._segments[container_id] = known
            self._bound(container_id)

    def _seal(self, container: TrackedContainer) -> None:
        segments = self._segments.setdefault(container.id, [])
        until, size = container.last_log[0], container.log_bytes
        container.log_bytes = 0
        if segments and segments[-1].until >= until:
            until, size = segments[-1].until, size + segments.pop().bytes
        segments.append(Segment(until, size))
        self._bound(container.id)

    def _bound(self, container_id: int) -> None:
        """Drop the oldest segments until one more, the open one, fits into the bound."""
        segments = self._segments.get(container_id, [])
        total = sum(segment.bytes for segment in segments)
        count = 0
        while total > self.limit_bytes - self._segment_bytes:
            total -= segments[count].bytes
            count += 1
        if count:
            self.due[container_id] = segments[count - 1].until
            del segments[:count]
            if not segments:
                del self._segments[container_id]
