"""What one organisation may take, so that it cannot take it from the others.

Connections, containers and subscribers are plain counts, checked where one is added. The rate of batches is a bucket of
acknowledgements: an ack costs what it lets go. While the bucket is empty the acks of that organisation wait, its agents fill
their windows and stand still; they spool, nothing is lost, nobody is closed, and the acks of others are not touched. Ten
times a second the bucket is filled, and those that wait longest go first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

BURST_SECONDS = 1.0
"""What an organisation that was idle may have acknowledged at once, in seconds of its rate."""


class Waiting(Protocol):
    """An agent whose ack waits for its organisation's bucket."""

    def send_ack(self) -> None:
        """Send the newest ack, or wait again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that an organisation may take."""

    agents: int
    containers: int
    subscribers: int
    batches_per_second: int


class Organisation:
    """What an organisation takes now, and its limits. The counts are kept by those who add and remove."""

    __slots__ = (
        "_rate_batches",
        "_write_tokens",
        "_written_at",
        "agents",
        "batches",
        "batches_per_second",
        "containers",
        "greeting",
        "ingest_bytes",
        "limits",
        "subscribers",
        "tokens",
        "waiting",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.agents = 0
        """Agents connected."""
        self.greeting = 0
        """Agents admitted that have not said hello yet."""
        self.containers = 0
        """Containers present."""
        self.subscribers = 0
        self.ingest_bytes = 0
        """Memory of rows received and not committed."""
        self.batches = 0
        """Batches taken since the start."""
        self.batches_per_second = 0.0
        """Batches taken, over the last second or so."""
        self.tokens = limits.batches_per_second * BURST_SECONDS
        """Batches that may be acknowledged now; below zero after an ack of more than there were."""
        self.waiting: dict[Waiting, None] = {}
        """Agents whose ack waits, longest first. As many as agents at most."""
        self._rate_batches = 0
        self._write_tokens = 0.0
        self._written_at = float("-inf")

    def may_write(self, now: float, per_second: float) -> bool:
        """Whether a user of it may change something now (monotonic seconds): so many a second, as many at once."""
        passed, self._written_at = now - self._written_at, now
        self._write_tokens = min(per_second, self._write_tokens + passed * per_second)
        if self._write_tokens < 1:
            return False
        self._write_tokens -= 1
        return True

    def may_ack(self, agent: Waiting) -> bool:
        """Whether an ack may go now; if not, `agent.send_ack` is called when it may."""
        if self.tokens > 0:
            return True
        self.waiting[agent] = None
        return False

    def pay(self, batches: int) -> None:
        """An ack of so many batches went out."""
        self.tokens -= batches

    def refill(self, seconds: float) -> None:
        """Fill the bucket for the time that passed, and let go what waited."""
        rate = self.limits.batches_per_second
        self.tokens = min(rate * BURST_SECONDS, self.tokens + rate * seconds)
        while self.waiting and self.tokens > 0:
            agent = next(iter(self.waiting))
            del self.waiting[agent]
            agent.send_ack()

    def release(self) -> None:
        """Send every ack that waits, paid or not: the server is about to stop."""
        waiting, self.waiting = self.waiting, {}
        self.tokens = float("inf")
        for agent in waiting:
            agent.send_ack()

    def measure(self, seconds: float) -> None:
        """Note the rate of batches over the time that passed."""
        self.batches_per_second = round((self.batches - self._rate_batches) / seconds, 1)
        self._rate_batches = self.batches


class Quotas:
    """The organisations that the server knows, each with its limits."""

    def __init__(self, defaults: Limits, *, writes_per_second: float = 50.0) -> None:
        self._defaults = defaults
        self._writes_per_second = writes_per_second
        self._own: Mapping[str, Limits] = {}
        self._organisations: dict[str, Organisation] = {}
        self._measured_at = 0.0
        self._filled_at = 0.0

    @property
    def defaults(self) -> Limits:
        """The limits of an organisation that has none of its own."""
        return self._defaults

    def of(self, org: str) -> Organisation:
        """An organisation, new if it was not known."""
        if (found := self._organisations.get(org)) is None:
            found = self._organisations[org] = Organisation(self._own.get(org, self._defaults))
        return found

    def may_write(self, org: str, now: float) -> bool:
        """Whether a user of the organisation may change something now: each attempt costs rows that are kept for long."""
        return self.of(org).may_write(now, self._writes_per_second)

    def replace(self, own: Mapping[str, Limits]) -> None:
        """Take over the limits that organisations have of their own; what is over a lower one stays, and nothing is added."""
        self._own = own
        for org, organisation in self._organisations.items():
            organisation.limits = own.get(org, self._defaults)
            organisation.refill(0)

    def tick(self, now: float) -> None:
        """Ten times a second, `now` in monotonic seconds: fill the buckets and let go what waited."""
        passed, self._filled_at = now - (self._filled_at or now), now
        measured = now - (self._measured_at or now)
        for organisation in self._organisations.values():
            organisation.refill(passed)
            if measured >= 1.0:
                organisation.measure(measured)
        if measured >= 1.0 or not self._measured_at:
            self._measured_at = now

    def release(self) -> None:
        """Send every ack that waits: the server is about to stop."""
        for organisation in self._organisations.values():
            organisation.release()

    @property
    def acks_waiting(self) -> int:
        """Agents whose ack waits for their organisation's bucket."""
        return sum(len(organisation.waiting) for organisation in self._organisations.values())
