"""What the writer of `bench charts` shall do, and what it found: the two files between its process and ours."""

from msgspec import Struct


class WriterPlan(Struct, frozen=True, kw_only=True):
    """What is stored, and how fast."""

    strategy: str
    seed: int
    containers: int
    """The first so many of the seed: a sample of each a second."""
    retention_us: int
    """By which a strategy of ranges chooses their width."""
    seconds: float
    """How long it writes."""
    first_second: int = 0
    """Of its samples, after T0."""
    rows_per_second: float | None = None
    """None: as fast as it can."""


class Written(Struct, frozen=True, kw_only=True):
    """What it stored."""

    rows: int
    seconds: float
    """From the first COPY to the last COMMIT, or to when the time was over."""
    cpu_seconds: float
    """Of the writer itself."""
    next_second: int
    """The first of which nothing was stored."""

    @property
    def rows_per_second(self) -> float:
        """Over all of its time."""
        return self.rows / self.seconds
