"""What the receivers of a benchmark shall do, and what they found: the two files between their process and ours."""

from collections.abc import Sequence
from itertools import cycle, islice
from random import Random

from msgspec import Struct

READY_SUFFIX = ".ready"
"""OUT with this suffix appears when the measuring begins."""


class Neighbour(Struct, kw_only=True):
    """A socket that stops reading."""

    topics: list[str]
    host: str
    """A topic of a host, whose snapshots fill the way to it."""


class ReceiversPlan(Struct, kw_only=True):
    """Who receives what, and how long."""

    url: str
    """The server's http address."""
    readers: list[list[str]]
    """The topics of each socket that reads: `container:` ones."""
    stalled: list[Neighbour]
    interval_us: int
    """Between two samples of a container."""
    warm_up_seconds: float
    """Between the last snapshot of the readers and the measuring."""
    seconds: float


class Received(Struct, kw_only=True):
    """What was received while it was measured, and what became of those who did not read."""

    seconds: float
    cpu_seconds: float
    """Of the receivers' process."""
    latency: str
    """From a sample's own time to its receipt: an HDR histogram in microseconds, base64."""
    lag: str
    """How late the receivers' own event loop was, of the same form: a latency is at least that much too long."""
    deliveries: int
    """Samples that were new to the reader that got them."""
    skipped: int
    """Samples that a reader never got, because a newer one of the container took their place."""
    dropped_lines: int
    """Log lines that gaps told of."""
    failures: dict[str, int]
    """Frames that break a promise of the server, by what is wrong with them."""
    reader_closes: dict[str, int]
    """Readers whose connection ended, by close code."""
    stalls: int
    """How often a neighbour stopped reading, the warm-up included."""
    stall_ends: dict[str, int]
    """What neighbours found when they read on after a stall: the code of the server's close, 1006: the connection had
    ended without one, `open`: it stood, `refused`: a neighbour could not come back."""


def spread(topics: Sequence[str], sockets: int, each: int, *, seed: int) -> list[list[str]]:
    """Topics for sockets, dealt out at random and evenly: none has two watchers more than another.

    Args:
        topics: at least `each` different ones.
        sockets: how many.
        each: topics of a socket.
        seed: of the order in which they are dealt out.
    """
    dealt = cycle(Random(seed).sample(topics, len(topics)))
    return [list(islice(dealt, each)) for _ in range(sockets)]
