"""What is looked at once a second while a run goes on: server, Postgres, tables and processes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

from loadtests.database import Reconnecting
from loadtests.growth import Looked
from loadtests.measure import Latency, Series
from loadtests.probes.looks import Looks, Probe
from loadtests.probes.postgres import PostgresProbe, Statement
from loadtests.probes.processes import Pid, process_probes
from loadtests.probes.server import ServerProbe
from loadtests.probes.tables import TablesProbe
from loadtests.prunings import Pruning
from server.db.storage.base import Storage

NOBODY: Mapping[str, Pid] = MappingProxyType({})


class Sampler:
    """Time series of the run, by the names of the catalogue.

    A part that does not answer leaves a gap in its own series and in no other; only rates of the server are known afterwards.

    Args:
        url: of the server.
        storage: the strategy that keeps the rows.
        tables, statistics: connections of the sampler's own; their deadlines must be short.
        processes: parts whose processes can be looked at.
        ours: whether server and database are the run's own; else nothing is changed there, and its statements are not told.
    """

    def __init__(
        self,
        url: str,
        storage: Storage,
        tables: Reconnecting,
        statistics: Reconnecting,
        processes: Mapping[str, Pid] = NOBODY,
        *,
        ours: bool = True,
    ) -> None:
        self._ours = ours
        self._server = ServerProbe(url)
        self._postgres = PostgresProbe(statistics)
        self._tables = TablesProbe(storage, tables)
        self._probes: list[Probe] = [
            self._server, self._tables, self._postgres, *process_probes(processes),
        ]  # fmt: skip
        self.series: dict[str, Series] = {}
        for probe in self._probes:
            self.series |= probe.series

    async def prepare(self) -> None:
        """What must be done before the load; what the server counted by now does not count."""
        await self._server.prepare()
        if self._ours:
            await self._postgres.prepare()
        else:
            self._postgres.looks.note = "no slowest statements: those of --target are not this run's alone"

    async def run(self) -> None:
        """Look each second until cancelled; a probe that must wait makes no other wait."""
        async with asyncio.TaskGroup() as tasks:
            for probe in self._probes:
                tasks.create_task(_each_second(probe.look))

    def warmed_up(self) -> None:
        """From now on everything counts; what was seen so far stays among the points of the series only."""
        self._server.warmed_up()
        for series in self.series.values():
            series.begin()

    async def last_look(self) -> None:
        """Look once more, at the end of the load, at everything."""
        await asyncio.gather(*(probe.look() for probe in self._probes))
        if self._ours:
            await self._postgres.find_statements()

    def server_ended(self) -> None:
        """The server's process is gone: the next one counts from zero."""
        self._server.ended()

    @property
    def rows_per_second(self) -> float:
        """Of the last second."""
        return self.series["insert_rows_per_second"].statistics().get("last", 0.0)

    @property
    def sees_the_server(self) -> bool:
        """Whether its `/metrics` ever answered: without that its counters are unknown, and not zero."""
        return self._server.looks.looks > self._server.looks.failures

    @property
    def tables(self) -> Looked:
        """What was seen of every table."""
        return self._tables.tables

    @property
    def prunings(self) -> list[Pruning]:
        """The server's prunings that were seen to be over, in their order."""
        return list(self._server.prunings.done)

    @property
    def unready_seconds(self) -> float:
        """For how long the server said that it was not ready."""
        return self._server.unready_seconds

    @property
    def looks(self) -> list[Looks]:
        """How often each probe looked, and how often in vain."""
        return [probe.looks for probe in self._probes]

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The slowest of Postgres, after `last_look`."""
        return self._postgres.statements

    def total(self, name: str) -> float:
        """One of the server's counters since `prepare`, over all its processes, as far as they were scraped."""
        return self._server.total(name)

    def live_closed(self, code: int) -> float:
        """Live sockets that ended with a code, by the server's own count."""
        return self._server.live_closed(code)

    def flushes(self) -> Latency:
        """Durations of all flushes, as the server's histogram tells them."""
        return self._server.flushes()


async def _each_second(look: Callable[[], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        await look()
        due = max(due + 1.0, loop.time())
        await asyncio.sleep(due - loop.time())
