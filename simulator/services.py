"""What an agent asks of the fleet around it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from simulator.counts import Counts
from simulator.ledger import Record

if TYPE_CHECKING:
    from simulator.delivery import Delivery
    from simulator.link import Session


class Timer(Protocol):
    """Something that will happen."""

    def cancel(self) -> None:
        """Make it not happen."""


class Services(Protocol):
    """Time, chance, connections and book-keeping. None of its methods waits."""

    counts: Counts

    def now_us(self) -> int:
        """Unix microseconds; never goes back."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call once, later."""

    def dial(self, agent: int, session: "Session", failed: Callable[[int | None, float | None], None]) -> None:
        """Open a connection with a new token for the agent of this number.

        It ends in `session.on_open`, or in `failed` with the HTTP status (None: no answer) and Retry-After in seconds.
        """

    def closed(self, code: int) -> None:
        """A connection that had been opened is gone."""

    def record(self, record: Record) -> None:
        """Write to the ledger."""

    def changed(self, delivery: "Delivery") -> None:
        """An agent's seqs moved on: the ledger's next progress shall tell."""

    def acked(self, agent: int, due_us: int, at_us: int) -> None:
        """A batch of the agent of this number that was due at one time was acknowledged at another; Unix microseconds."""
