"""What the driver of `bench message` shall do, and what it found: the two files between its process and ours."""

from msgspec import Struct


class DriverPlan(Struct, frozen=True, kw_only=True):
    """Which server is driven, and how. Times in seconds."""

    url: str
    agent: bool
    """Whether it is an agent endpoint; else an echo."""
    pid: int
    """Process of that server, whose CPU time is read."""
    connections: int
    containers: int
    """Samples of each batch."""
    per_second: float
    """Batches a second, of all connections together."""
    warm_up_seconds: float
    seconds: float


class Driven(Struct, frozen=True, kw_only=True):
    """What was found while it was measured."""

    seconds: float
    sent: int
    answered: int
    """Batches acked, or echoed."""
    cpu_seconds: float
    """Of the server, with its children."""
    lag: str
    """From a batch's intended time to its sending: an HDR histogram in microseconds, base64."""
