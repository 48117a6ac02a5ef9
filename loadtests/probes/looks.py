"""How often a probe looked, and how often in vain: what could not be looked at is said, and is never a zero."""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from loadtests.measure import Series


class Looks(Struct, kw_only=True):
    """One probe's book."""

    probe: str
    looks: int = 0
    failures: int = 0
    last_error: str = ""
    """Of the newest look in vain."""
    note: str = ""
    """What this probe does not look at, and why."""

    def good(self) -> None:
        """It saw something."""
        self.looks += 1

    def failed(self, error: object) -> None:
        """It looked in vain."""
        self.looks += 1
        self.failures += 1
        text = str(error)
        self.last_error = (f"{type(error).__name__}: {text}" if isinstance(error, BaseException) else text)[:500]


class Probe(Protocol):
    """Looks at one part of a run."""

    @property
    def looks(self) -> Looks:
        """Its book."""

    @property
    def series(self) -> dict[str, Series]:
        """What it saw, by the names of the catalogue. The same series for its whole life."""

    async def look(self) -> None:
        """Look once. What goes wrong is noted in `looks` and not raised."""


class Rates:
    """Counters turned into rates. One that fell was reset: it has no rate until the look after."""

    def __init__(self) -> None:
        self._at = 0.0
        self._before: dict[str, float] = {}

    def take(self, at_seconds: float, values: Mapping[str, float]) -> dict[str, float]:
        """What the counters rose by since the look before, by the second; at a time of a clock that only rises."""
        seconds, before = at_seconds - self._at, self._before
        self._at, self._before = at_seconds, dict(values)
        if seconds <= 0:
            return {}
        return {
            name: (value - before[name]) / seconds
            for name, value in values.items()
            if name in before and value >= before[name]
        }

    def forget(self) -> None:
        """A look failed: what comes next would be a rate over a hole, and tell it as one over a second."""
        self._before = {}
