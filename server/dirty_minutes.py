"""Which minutes of which containers got samples that the rollup does not know yet, as memory has it.

A mark (container, minute) is committed with the first sample of it, and the samples after that rely on it: one mark a
container and minute, whatever the rate. A mark is taken away when its minute is computed, so that may only begin once
nothing that is under way relies on it:

- `close(until)`: from now on a sample before `until` has its mark renewed, once per closing;
- what was accepted until then is waited for (the lanes' barriers);
- then marks of minutes before `until` may be taken.
"""

from collections.abc import Iterable

from server.agents import TrackedContainer
from server.reads import MINUTE_US

Mark = tuple[TrackedContainer, int]
"""A container, and the beginning of a minute in Unix microseconds."""


class DirtyMinutes:
    """Says for which samples a mark must be stored."""

    def __init__(self) -> None:
        self.closed_until = 0
        """Minutes before may be computed at any time. Unix microseconds, the beginning of a minute."""
        self._closings = 0

    def lacks_mark(self, container: TrackedContainer, at: int) -> bool:
        """Whether a fresh sample cannot rely on a mark of its minute. One that may be stored before it never does."""
        return not container.marked_from <= at < container.marked_until or (
            at < self.closed_until and container.marked_closing != self._closings
        )

    def marked(self, marks: Iterable[Mark]) -> None:
        """These are on their way to the database, before or with every sample that is accepted from now on."""
        for container, minute in marks:
            if minute >= container.marked_from:  # the newest is remembered: fresh samples rise
                container.marked_from, container.marked_until = minute, minute + MINUTE_US
                container.marked_closing = self._closings

    def close(self, until: int) -> int:
        """Minutes before `until` (Unix microseconds) are to be computed; returns up to which. It never goes back."""
        self.closed_until = max(self.closed_until, until // MINUTE_US * MINUTE_US)
        self._closings += 1
        return self.closed_until
