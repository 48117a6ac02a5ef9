"""What benchmarks of the running product stand on: a server with a database of its own, and a fleet that streams into it."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import asyncpg
import msgspec

from loadtests.api import ContainerPage
from loadtests.bench.rest import Rest
from loadtests.bench.usage import Component, Moment, postgres_component
from loadtests.children import Child
from loadtests.fingerprint import Postgres
from loadtests.fleet_process import leave, make_fleet, read_report, until_connected
from loadtests.stage import ORG, ServerUnderTest, StageError, database, fingerprint
from loadtests.tokens import JWT_SECRET, user_token
from loadtests.tokens import ORG as ORG_VARIABLE
from server.protocol.messages import ContainerStatus
from simulator.host import host_id
from simulator.scenario import Scenario

LIST_SECONDS = 60.0
"""Longest wait for the containers of the hosts to be listed."""
_LOOK_SECONDS = 0.2

Pins = Mapping[str, tuple[int, ...]]


@dataclass(slots=True)
class Rig:
    """It runs, with every agent connected."""

    scenario: Scenario
    directory: Path
    server: ServerUnderTest
    fleet: Child
    postgres: Postgres
    pins: Pins
    components: list[Component]
    failures: list[str] = field(default_factory=list)

    def pin(self, name: str, child: Child) -> None:
        """Hold a process to the cores that were asked for."""
        if name in self.pins:
            Component(name, child.pid).pin(self.pins[name])

    async def used(self, seconds: float) -> dict[str, float]:
        """Cores that each component uses in so many seconds from now on."""
        before = Moment.now(self.components)
        await asyncio.sleep(seconds)
        after = Moment.now(self.components)
        return {name: used / (after.at - before.at) for name, used in after.since(before).items()}

    def authorization(self, subject: str, role: str) -> str:
        """The header of a user."""
        token = user_token({JWT_SECRET: self.server.secret, ORG_VARIABLE: ORG}, subject, role)
        return f"Bearer {token}"

    async def containers(self, hosts: Sequence[str]) -> list[ContainerStatus]:
        """The containers of these hosts, once all of them are listed.

        Raises:
            StageError: they were not in time.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + LIST_SECONDS
        headers = {"Authorization": self.authorization("bench-viewer", "viewer")}
        rest = Rest(self.server.http)
        found: list[ContainerStatus] = []
        try:
            for host in hosts:
                while True:
                    path = f"/api/hosts/{quote(host)}/containers"
                    answer = await rest.request("GET", path, headers=headers)
                    listed = (
                        msgspec.json.decode(answer.body, type=ContainerPage).containers if answer.status == 200 else ()
                    )
                    if len(listed) == self.scenario.fleet.containers:
                        found += listed
                        break
                    if loop.time() > deadline:
                        expected = self.scenario.fleet.containers
                        raise StageError(f"{host} has {len(listed)} containers listed, expected {expected}")
                    await asyncio.sleep(_LOOK_SECONDS)
        finally:
            rest.close()
        return found

    async def end_fleet(self) -> None:
        """Let the fleet leave, and take over why its figures, if it says so, are not to be trusted.

        Raises:
            ChildError: it had ended with an error.
        """
        await leave(self.fleet)
        self.failures += [f"fleet: {reason}" for reason in read_report(self.directory)["invalid"]]


@asynccontextmanager
async def rig(
    scenario: Scenario, directory: Path, *, database_url: str | None, settings: Mapping[str, str], pins: Pins
) -> AsyncIterator[Rig]:
    """Start server and fleet; at the end nothing of them is left.

    Args:
        scenario: what runs.
        directory: gets logs and ledger.
        database_url: a Postgres to use; None: a private one.
        settings: of the private Postgres.
        pins: cores by component.

    Raises:
        StageError, ChildError: they could not be started.
    """
    async with AsyncExitStack() as stack:
        dsn, _ = await stack.enter_async_context(database(database_url, directory / "postgres.log", settings=settings))
        server = ServerUnderTest(scenario, dsn, directory)
        stack.push_async_callback(server.child.stop)
        await server.start()
        components = [Component("server", server.child.pid)]
        connection = await asyncpg.connect(dsn, timeout=10, command_timeout=60)
        try:
            found = await fingerprint(connection)
            if (postgres := await postgres_component(connection)) is not None:
                components.append(postgres)
        finally:
            await connection.close(timeout=5)
        fleet = make_fleet(scenario, server, directory, endless=True)
        stack.push_async_callback(fleet.stop)
        await fleet.start()
        components.append(Component("fleet", fleet.pid))
        for component in components:
            if component.name in pins:
                component.pin(pins[component.name])
        await until_connected(fleet, scenario, server)
        yield Rig(scenario, directory, server, fleet, found, pins, components, list(found.weaknesses()))


def hosts_of(agents: int, most: int) -> list[str]:
    """Hosts of a fleet, at most so many, evenly over all of it."""
    count = min(agents, most)
    return [host_id(1 + number * agents // count) for number in range(count)]


def topics_of(containers: Iterable[ContainerStatus]) -> list[str]:
    """Their live topics."""
    return [f"container:{container.id}" for container in containers]
