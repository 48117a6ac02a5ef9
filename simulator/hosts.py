"""What an agent asks of its host, be it made up of a seed or recorded."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from server.protocol.messages import Container, Log, Metric
from simulator.host import Handling
from simulator.host_clock import HostClock
from simulator.lives import Input


class Lives(Protocol):
    """When the containers of a host are there. See `simulator.lives`."""

    def turned(self, before: int, tick: int) -> Sequence[int]:
        """Refs of what is another at `tick` than at `before`, gone ones included. For ticks that only rise."""

    def recreated(self, turned: Sequence[int]) -> int:
        """How many containers were replaced by others, by the refs that `turned` told of."""

    def refs(self, first: int, last: int) -> list[int]:
        """Refs of what there is at the tick `last`, and then of what is gone and was there at `first` or later."""


class Host(Protocol):
    """A host. It reads no clock and does no I/O; any tick can be asked for, in any order. See `FakeHost`."""

    agent: int
    """Its number."""
    clock: HostClock
    host_id: str
    machine_id: str
    hostname: str
    cores: int
    t0_us: int
    """Start of its timeline, Unix microseconds."""
    phase_us: int
    """How long after it its own one begins."""

    @property
    def lives(self) -> Lives:
        """Of its containers."""

    def due(self, tick: int) -> int:
        """When a tick is due, Unix microseconds."""

    def at(self, tick: int) -> int:
        """What the batch of a tick says of its time."""

    def first_tick_at(self, at_us: int) -> int:
        """The first tick due at or after `at_us`, at least 0."""

    def docker_id(self, ref: int) -> str:
        """The container's Docker id."""

    def inventory(self, refs: Iterable[int], tick: int) -> list[Container]:
        """Containers as the host reports them after `tick`."""

    def metrics(self, tick: int) -> tuple[Metric, ...]:
        """The samples of a tick."""

    def metrics_of(self, ticks: range) -> list[tuple[Metric, ...]]:
        """The samples of some ticks that follow one another."""

    def logs(self, tick: int) -> tuple[Log, ...]:
        """The lines of a tick."""

    def apply(self, change: Input) -> bool:
        """Carry out a command; returns whether it changed something.

        Raises:
            KeyError: there is no such container.
        """

    def handling(self, action_id: str) -> Handling:
        """How it handles a command."""

    def forget(self, before: int) -> None:
        """Drop what only ticks below `before` need."""
