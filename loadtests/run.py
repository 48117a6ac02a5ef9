"""One run: stage, fleet, users, faults, verification, verdict.

The runner owns Postgres and the server. It tolerates that they die, starts the server again only if the scenario says so,
and leaves nothing behind, however it ends.
"""

import asyncio
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

from loadtests.abort import AbortWatch
from loadtests.answers import AuditEntry
from loadtests.asked import AskError
from loadtests.attempts import read_attempts
from loadtests.audit_check import AuditCheckError, compare, read_audit
from loadtests.background import Background
from loadtests.chart_check import check_charts
from loadtests.children import MAX_GENERATOR_CPU, Child, ChildError
from loadtests.database import AWAY, Reconnecting
from loadtests.faults import FaultError, Faults
from loadtests.fleet_process import HISTORY, ledgers, make_fleet
from loadtests.fleet_status import FleetStatus
from loadtests.measure import now_us
from loadtests.network import Network
from loadtests.outcome import Outcome
from loadtests.past import write_history
from loadtests.probes.looks import Looks
from loadtests.probes.processes import Pid
from loadtests.progress import Progress
from loadtests.result import Result
from loadtests.sampling import Sampler
from loadtests.stage import RunDatabase, ServerUnderTest, Site, StageError, database, fingerprint
from loadtests.target import Target
from loadtests.tenants import tenants
from loadtests.tokens import user_token
from loadtests.users_process import ATTEMPTS, make_users
from loadtests.verify import RollingVerifier, Verifier
from server.db.embedded import EmbeddedPostgres
from server.db.storage.strategies import storage as strategy
from simulator.ledger import LedgerError
from simulator.organisations import organisation
from simulator.scenario import Fault, Scenario

FLEET_GRACE_SECONDS = 30.0
"""Beyond its duration: connecting, the last acknowledgements, leaving."""
USERS_GRACE_SECONDS = 20.0
LOOK_SECONDS, VERIFY_SECONDS = 2.0, 120.0
"""Deadlines of the runner's statements: the sampler's, which has more to look at, and the verifier's."""


class Run:
    """A run of a checked scenario into its own directory."""

    def __init__(
        self,
        scenario: Scenario,
        directory: Path,
        database_url: str | None,
        progress: Progress,
        target: Target | None = None,
    ) -> None:
        self._target = target
        self._scenario = scenario
        self._directory = directory
        self._database_url = database_url
        self._progress = progress
        self._outcome = Outcome(scenario, directory)

    async def perform(self) -> Result:
        """Run, stop everything, judge.

        Cancelled, it still stops everything, and returns what there is as interrupted.

        Raises:
            StageError, ChildError: the environment could not be set up.
        """
        try:
            await self._perform()
        except asyncio.CancelledError:
            self._outcome.interrupted = True
        await asyncio.to_thread(self._outcome.measure)
        return await asyncio.to_thread(self._outcome.result)

    async def _perform(self) -> None:
        scenario, directory, outcome = self._scenario, self._directory, self._outcome
        async with AsyncExitStack() as stack:
            dsn, postgres = await self._database(stack)
            storage = strategy(scenario.storage.strategy)
            verifying = _connection(stack, dsn, VERIFY_SECONDS)
            past, history = None, directory / HISTORY
            if scenario.storage.backfill_seconds:
                past = await write_history(scenario, dsn, storage, history, verifying.use, self._progress.say)
            target, own = self._target, None
            server: Site
            if target is None:
                server = own = outcome.server = await self._start_server(stack, dsn)
            else:
                server = target
            looking, counting = (_connection(stack, dsn, LOOK_SECONDS) for _ in range(2))
            await self._look_at_postgres(looking)
            network = outcome.network = await self._start_network(stack, own) if own else None
            verifier = stack.enter_context(
                Verifier(
                    [*([history] if past else []), *ledgers(scenario, directory)],
                    storage,
                    verifying.use,
                    org=target.org if target else None,
                )
            )
            rolling = RollingVerifier(
                verifier, scenario.storage.retention_seconds, since_us=past.verified_until_us if past else 0
            )
            if past is not None:
                verifier.findings.merge(past.findings)
            outcome.findings = verifier.findings
            fleet = make_fleet(
                scenario,
                server,
                directory,
                url=network.ws if network else None,
                history=history if past else None,
            )
            users = make_users(scenario, server, directory) if scenario.users else None
            sampler = outcome.sampler = Sampler(
                target.metrics if target else server.http,
                storage,
                looking,
                counting,
                self._processes(postgres, fleet, users),
                ours=target is None,
            )
            await sampler.prepare()
            stack.push_async_callback(fleet.stop)
            await fleet.start()
            outcome.load_started_us = now_us()
            outcome.status = FleetStatus(fleet.log)
            outcome.has_users = users is not None
            if users is not None:
                stack.push_async_callback(users.stop, signal.SIGTERM, 10.0)
                await users.start()
            async with Background() as background:
                background.start(sampler.run())
                checking = background.start(rolling.run())
                if own:
                    background.start(self._watch_server(own, sampler, fleet))
                    self._begin_faults(background, Faults(own, postgres, network))
                for work in self._end_warm_up(), self._show(sampler, outcome.status), self._watch_thresholds(fleet):
                    background.start(work)
                if users is not None:
                    background.start(self._watch_users(users, fleet))
                await self._load(fleet, users, background)
                outcome.load_ended_us = now_us()
                rolling.stop()
                with suppress(LedgerError, OSError):
                    await checking
            outcome.count_faults()
            await sampler.last_look()
            entries = await self._audit(server) if scenario.actions.operators else None
            await self._check_charts(server, verifier)
            if own:
                self._progress.say("stopping the server")
                if not await own.child.stop():
                    outcome.invalid.append("the server did not end within 30 s of SIGTERM")
            await self._verify_rest(rolling, pruning=own is None)
            self._check_audit(entries, verifier.executed())

    # -- parts

    async def _database(self, stack: AsyncExitStack) -> RunDatabase:
        """Where the rows go: a database of the run's own, or the target's."""
        if self._target is not None:
            self._outcome.target = self._target.deployed
            return RunDatabase(self._target.database_url, None)
        self._progress.say("starting Postgres")
        log_file = self._directory / "postgres.log"
        return await stack.enter_async_context(database(self._database_url, log_file, settings=self._scenario.postgres))

    async def _start_server(self, stack: AsyncExitStack, dsn: str) -> ServerUnderTest:
        """The run's own server."""
        server = ServerUnderTest(self._scenario, dsn, self._directory)
        stack.push_async_callback(lambda: server.child.stop())  # noqa: PLW0108 - the child changes with a restart
        self._progress.say("starting the server")
        await server.start()
        return server

    def _begin_faults(self, background: Background, faults: Faults) -> None:
        """Let the runner's faults happen, each at its time."""
        for fault in self._scenario.faults:
            if not fault.of_fleet:
                background.start(self._break(faults, fault))

    def _processes(self, postgres: EmbeddedPostgres | None, fleet: Child, users: Child | None) -> dict[str, Pid]:
        """Whose processes there are to look at."""
        outcome = self._outcome
        found: dict[str, Pid] = {"fleet": lambda: fleet.running_pid}
        if outcome.target is None:
            found["server"] = lambda: outcome.server.child.running_pid if outcome.server else None
        else:
            outcome.unseen.append(Looks(probe="server processes", note="the server of --target is not ours"))
        if postgres is not None:
            found["postgres"] = lambda: postgres.pid
        else:
            outcome.unseen.append(Looks(probe="postgres processes", note="the Postgres of --database-url is not ours"))
        if users is not None:
            found["users"] = lambda: users.running_pid
        if outcome.network is not None:
            proxy = outcome.network.child
            found["proxy"] = lambda: proxy.running_pid
        return found

    async def _look_at_postgres(self, looking: Reconnecting) -> None:
        try:
            async with looking.use() as connection:
                self._outcome.postgres = await fingerprint(connection)
        except AWAY as error:
            raise StageError(f"the run's database: {error}") from None
        self._outcome.invalid += self._outcome.postgres.weaknesses()

    async def _start_network(self, stack: AsyncExitStack, server: ServerUnderTest) -> Network | None:
        """The proxy, where a fault needs it."""
        if not any(fault.part == "network" for fault in self._scenario.faults):
            return None
        network = Network(server.port, self._scenario.seed, self._directory / "network.log")
        stack.push_async_callback(network.child.stop)
        await network.start()
        return network

    async def _audit(self, server: Site) -> list[AuditEntry] | None:
        """The audit log of this run; None: it cannot be read, which makes the run invalid."""
        self._progress.say("reading the audit log")
        found: list[AuditEntry] = []
        try:
            for tenant in tenants(server.org, self._scenario.fleet.organisations):
                authorization = partial(_admin, server, tenant.org)
                found += await read_audit(server.http, authorization, self._outcome.started_us)
        except AuditCheckError as error:
            self._outcome.invalid.append(str(error))
            return None
        return found

    async def _check_charts(self, server: Site, verifier: Verifier) -> None:
        """Hold charts against what the fleet sent, now that it sends no more, where anybody read some."""
        if not self._scenario.ui.chart_readers:
            return
        self._progress.say("checking charts")
        try:
            self._outcome.charts = await check_charts(
                server.http, self._reader_of(server), verifier, range(1, self._scenario.fleet.agents + 1),
                retention_us=int(self._scenario.storage.retention_seconds * 1e6), seed=self._scenario.seed,
            )  # fmt: skip
        except (AskError, LedgerError) as error:
            self._outcome.invalid.append(f"charts could not be checked: {error}")

    def _reader_of(self, server: Site) -> Callable[[int], str]:
        """The `Authorization` of somebody who may read what an agent sent."""
        organisations = self._scenario.fleet.organisations
        return lambda agent: _admin(server, organisation(server.org, organisations, agent))

    def _check_audit(self, entries: list[AuditEntry] | None, executed: Mapping[str, int]) -> None:
        """Hold it against what operators attempted and the fleet carried out; None: there is nothing to hold against it."""
        if entries is None:
            return
        try:
            attempts = read_attempts(self._directory / ATTEMPTS)
        except (OSError, ValueError) as error:
            self._outcome.invalid.append(f"the operators' attempts cannot be read: {error}")
            return
        if not attempts:
            self._outcome.invalid.append("the operators attempted nothing, so the audit log proves nothing")
        self._outcome.audit = compare(self._directory.name, attempts, entries, executed)

    # -- while it runs

    async def _load(self, fleet: Child, users: Child | None, background: "Background") -> None:
        """Until the fleet has ended by itself, and the users after it."""
        seconds = self._scenario.duration_seconds
        ended = await background.first_of(fleet.wait(), seconds + FLEET_GRACE_SECONDS)
        if ended is None:
            self._outcome.invalid.append(f"the fleet did not end within {FLEET_GRACE_SECONDS:g} s of its duration")
            await fleet.stop(signal.SIGTERM, 15)
        elif ended not in {0, 12}:  # 12: its own report says why
            self._outcome.invalid.append(str(fleet.failure(f"ended with exit code {ended}")))
        if users is not None:
            # Nothing comes to them any more: they leave, and write what they measured.
            users.send(signal.SIGTERM)
            if await background.first_of(users.wait(), USERS_GRACE_SECONDS) is None:
                await users.kill()

    async def _end_warm_up(self) -> None:
        """What came until then counts in no series; fleet and users do the same with their latencies."""
        warm_up_seconds = self._scenario.warm_up_seconds
        await asyncio.sleep(warm_up_seconds)
        self._outcome.warmed_up()
        if warm_up_seconds:
            self._progress.say(f"warm-up: {warm_up_seconds:g} s are over, from now on it counts")

    async def _watch_server(self, server: ServerUnderTest, sampler: Sampler, fleet: Child) -> None:
        """Notice that the server died, and start it again if the scenario says so.

        One that does not come back ends the load. What it had acked until then is verified all the same.
        """
        while True:
            as_told = await server.ended()
            code = server.child.exit_code
            sampler.server_ended()
            self._outcome.server_failures += not as_told
            if not self._scenario.server.restart:
                self._outcome.invalid.append(f"the server ended during the run with exit code {code}")
                return
            self._progress.say(f"the server ended with exit code {code}: starting it again")
            try:
                await server.restart()
            except ChildError as error:
                self._outcome.server_failures += 1
                self._outcome.invalid.append(f"the server did not come back: {error}")
                fleet.send(signal.SIGTERM)
                return
            self._outcome.server_back_us.append(now_us())

    async def _break(self, faults: Faults, fault: Fault) -> None:
        """Do a fault at its time, which counts from now."""
        await asyncio.sleep(fault.at_seconds)
        self._progress.say(f"fault: {fault.kind}")
        try:
            done = await faults.perform(fault)
        except FaultError as error:
            self._outcome.invalid.append(f"the fault {fault.describe()} did not happen: {error}")
            return
        self._outcome.faults.append(done)
        self._progress.say(f"fault: {fault.kind}: {done.detail}")

    async def _watch_thresholds(self, fleet: Child) -> None:
        """End the load early when a threshold that says so stays broken. The fleet's end is the load's."""
        watch = AbortWatch(self._scenario.thresholds)
        begun = asyncio.get_running_loop().time()
        while watch.watches and self._outcome.aborted is None:
            await asyncio.sleep(1.0)
            elapsed = asyncio.get_running_loop().time() - begun
            aborted = self._outcome.aborted = watch.judge(elapsed, await asyncio.to_thread(self._outcome.statistics))
            if aborted is not None:
                self._progress.say(f"threshold {aborted.threshold.key}: {aborted.reason}")
                fleet.send(signal.SIGTERM)

    async def _watch_users(self, users: Child, fleet: Child) -> None:
        """A Locust process that has no core left measures itself, and one that is gone measures nothing."""
        loop = asyncio.get_running_loop()
        workers = self._scenario.ui.processes
        expected = workers if workers == 1 else workers + 1  # with the master, which has no users
        busy, complete = 0, False
        while True:
            before, started = users.cpu_seconds(), loop.time()
            await asyncio.sleep(1.0)
            after = users.cpu_seconds()
            if not fleet.running:
                return  # they leave with it
            used = max((seconds - before.get(pid, seconds) for pid, seconds in after.items()), default=0.0)
            busy = busy + 1 if used / (loop.time() - started) > MAX_GENERATOR_CPU else 0
            if busy == 5:
                self._outcome.invalid.append(f"Locust used over {MAX_GENERATOR_CPU:.0%} of a core for 5 s")
            if complete and len(after) < expected:
                ended = expected - len(after)
                self._outcome.invalid.append(f"{ended} of {expected} Locust processes ended during the load")
                return
            complete = complete or len(after) >= expected

    async def _show(self, sampler: Sampler, status: FleetStatus) -> None:
        begun = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(1.0)
            elapsed = asyncio.get_running_loop().time() - begun
            await asyncio.to_thread(status.poll)
            oldest = sampler.series["oldest_row_age_s"].statistics().get("last")
            self._progress.show(
                elapsed,
                self._scenario.duration_seconds,
                status.last,
                sampler.rows_per_second,
                oldest,
                self._outcome.findings,
            )

    # -- the end

    async def _verify_rest(self, rolling: RollingVerifier, *, pruning: bool) -> None:
        """Everything that the rolling verification has not seen yet; `pruning`: the server goes on to remove rows."""
        self._progress.say("verifying what is left")
        retention_us = int(self._scenario.storage.retention_seconds * 1e6)
        try:
            await rolling.finish(now_us() - retention_us, pruning=pruning)
        except (LedgerError, *AWAY) as error:
            self._outcome.invalid.append(f"the ledger could not be verified to its end: {error}")


def _connection(stack: AsyncExitStack, dsn: str, statement_seconds: float) -> Reconnecting:
    """A connection that ends with the stack."""
    made = Reconnecting(dsn, statement_seconds=statement_seconds)
    stack.callback(made.close)
    return made


def _admin(server: Site, org: str) -> str:
    """The `Authorization` of the runner itself, in an organisation."""
    return f"Bearer {user_token(server.credentials, 'runner', 'admin', org)}"


async def run(scenario: Scenario, directory: Path, database_url: str | None, target: Target | None = None) -> Result:
    """Perform a run, on a server of its own or on a target that was reached.

    SIGINT and SIGTERM end it early and in order, a second one at once.

    Raises:
        StageError, ChildError: the environment could not be set up.
    """
    loop = asyncio.get_running_loop()
    with Progress(sys.stderr) as progress:
        progress.say(f"{scenario.name}: {scenario.question.strip()}")
        performing = asyncio.ensure_future(Run(scenario, directory, database_url, progress, target).perform())
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, performing.cancel)
        try:
            return await performing
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


__all__ = ["ChildError", "Run", "StageError", "run"]
