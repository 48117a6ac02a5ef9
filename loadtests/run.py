"""One run: stage, fleet, users, faults, verification, verdict.

The runner owns Postgres and the server. It tolerates that they die, starts the server again only if the scenario says so,
and leaves nothing behind, however it ends.
"""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec

from loadtests.answers import AuditEntry
from loadtests.attempts import read_attempts
from loadtests.audit_check import AuditCheckError, AuditFindings, compare, read_audit
from loadtests.children import MAX_GENERATOR_CPU, Child, ChildError
from loadtests.database import AWAY, Reconnecting
from loadtests.faults import FaultError, Faults
from loadtests.fingerprint import Postgres, environment
from loadtests.fleet_process import REPORT, last_status, ledgers, make_fleet
from loadtests.fleet_report import catalogue as fleet_catalogue
from loadtests.fleet_report import read_report
from loadtests.measure import Latency, Series, now_us
from loadtests.network import Network
from loadtests.progress import Progress
from loadtests.recorded import catalogue, read_measurements
from loadtests.result import FaultDone, Result, summarise
from loadtests.sampling import Sampler
from loadtests.stage import ORG, ServerUnderTest, StageError, database, fingerprint
from loadtests.thresholds import judge, measurable
from loadtests.tokens import JWT_SECRET, user_token
from loadtests.tokens import ORG as ORG_VARIABLE
from loadtests.users_process import ATTEMPTS, MEASUREMENTS, make_users
from loadtests.verify import Findings, RollingVerifier, Verifier
from server.db.storage.strategies import storage as strategy
from simulator.ledger import LedgerError
from simulator.scenario import Fault, Scenario

FLEET_GRACE_SECONDS = 30.0
"""Beyond its duration: connecting, the last acknowledgements, leaving."""
USERS_GRACE_SECONDS = 20.0
LOOK_SECONDS, VERIFY_SECONDS = 2.0, 120.0
"""Deadlines of the runner's statements: the sampler's, which has more to look at, and the verifier's."""

_Measurement = Latency | Series | float


@dataclass(slots=True)
class Outcome:
    """What a run gathers until it can be judged."""

    postgres: Postgres | None = None
    measured: dict[str, _Measurement] = field(default_factory=dict)
    faults: list[FaultDone] = field(default_factory=list)
    """In the order in which they began, once the load is over."""
    server_failures: int = 0
    invalid: list[str] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    audit: AuditFindings | None = None
    """None: nobody acted, or it could not be checked."""
    interrupted: bool = False


class Run:
    """A run of a checked scenario into its own directory."""

    def __init__(self, scenario: Scenario, directory: Path, database_url: str | None, progress: Progress) -> None:
        self._scenario = scenario
        self._directory = directory
        self._database_url = database_url
        self._progress = progress
        self._outcome = Outcome()
        self._started_us = now_us()
        self._sampler: Sampler | None = None
        self._server: ServerUnderTest | None = None
        self._network: Network | None = None
        self._fleet: Child | None = None
        self._users: Child | None = None

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
        self._measure()
        return await asyncio.to_thread(self._result)

    async def _perform(self) -> None:
        scenario, directory = self._scenario, self._directory
        async with AsyncExitStack() as stack:
            self._progress.say("starting Postgres")
            dsn, postgres = await stack.enter_async_context(database(self._database_url, directory / "postgres.log"))
            server = self._server = ServerUnderTest(scenario, dsn, directory)
            stack.push_async_callback(lambda: server.child.stop())  # noqa: PLW0108 - the child changes with a restart
            self._progress.say("starting the server")
            await server.start()
            storage = strategy(scenario.storage.strategy)
            looking = Reconnecting(dsn, statement_seconds=LOOK_SECONDS)
            verifying = Reconnecting(dsn, statement_seconds=VERIFY_SECONDS)
            stack.callback(looking.close)
            stack.callback(verifying.close)
            await self._look_at_postgres(looking)
            network = self._network = await self._start_network(stack, server)
            sampler = self._sampler = Sampler(server.http, storage, looking)
            verifier = stack.enter_context(Verifier(ledgers(scenario, directory), storage, verifying.use))
            rolling = RollingVerifier(verifier, scenario.storage.retention_seconds)
            self._outcome.findings = verifier.findings
            fleet = self._fleet = make_fleet(
                self._scenario, server, self._directory, url=network.ws if network else None
            )
            stack.push_async_callback(fleet.stop)
            await fleet.start()
            users = self._users = make_users(scenario, server, directory) if scenario.users else None
            if users is not None:
                stack.push_async_callback(users.stop, signal.SIGTERM, 10.0)
                await users.start()
            async with _Background() as background:
                background.start(sampler.run())
                checking = background.start(rolling.run())
                background.start(self._watch_server(server, sampler))
                for fault in scenario.faults:
                    background.start(self._break(Faults(server, postgres, network), fault))
                background.start(self._show(sampler))
                if users is not None:
                    background.start(self._watch_cpu(users))
                await self._load(fleet, users, background)
                rolling.stop()
                with suppress(LedgerError, OSError):
                    await checking
            self._count_faults()
            await sampler.sample()
            entries = await self._audit(server) if scenario.actions.operators else None
            self._progress.say("stopping the server")
            if not await server.child.stop():
                self._outcome.invalid.append("the server did not end within 30 s of SIGTERM")
            await self._verify_rest(rolling)
            if entries is not None:
                self._check_audit(entries, verifier.executed())

    # -- parts

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

    async def _audit(self, server: ServerUnderTest) -> list[AuditEntry] | None:
        """The audit log of this run; None: it cannot be read, which makes the run invalid."""
        self._progress.say("reading the audit log")
        environ = {JWT_SECRET: server.secret, ORG_VARIABLE: ORG}

        def authorization() -> str:
            return f"Bearer {user_token(environ, 'audit-check', 'admin')}"

        try:
            return await read_audit(server.http, authorization, self._started_us)
        except AuditCheckError as error:
            self._outcome.invalid.append(str(error))
            return None

    def _check_audit(self, entries: list[AuditEntry], executed: Mapping[str, int]) -> None:
        """Hold it against what operators attempted and the fleet carried out."""
        try:
            attempts = read_attempts(self._directory / ATTEMPTS)
        except (OSError, ValueError) as error:
            self._outcome.invalid.append(f"the operators' attempts cannot be read: {error}")
            return
        if not attempts:
            self._outcome.invalid.append("the operators attempted nothing, so the audit log proves nothing")
        self._outcome.audit = compare(self._directory.name, attempts, entries, executed)

    # -- while it runs

    async def _load(self, fleet: Child, users: Child | None, background: "_Background") -> None:
        """Until the fleet has ended by itself, and the users after it."""
        seconds = self._scenario.duration_seconds
        ended = await background.first_of(fleet.wait(), seconds + FLEET_GRACE_SECONDS)
        if ended is None:
            self._outcome.invalid.append(f"the fleet did not end within {FLEET_GRACE_SECONDS:g} s of its duration")
            await fleet.stop(signal.SIGTERM, 15)
        elif ended not in {0, 12}:  # 12: its own report says why
            raise fleet.failure(f"ended with exit code {ended}")
        if users is not None:
            # Nothing comes to them any more: they leave, and write what they measured.
            users.send(signal.SIGTERM)
            if await background.first_of(users.wait(), USERS_GRACE_SECONDS) is None:
                await users.kill()

    async def _watch_server(self, server: ServerUnderTest, sampler: Sampler) -> None:
        """Notice that the server died, and start it again if the scenario says so."""
        while True:
            as_told = await server.ended()
            code = server.child.exit_code
            sampler.server_ended()
            self._outcome.server_failures += not as_told
            if not self._scenario.server.restart:
                self._outcome.invalid.append(f"the server ended during the run with exit code {code}")
                return
            self._progress.say(f"the server ended with exit code {code}: starting it again")
            await server.restart()

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

    def _count_faults(self) -> None:
        """A fault that was still under way when the load ended is none that the load has met."""
        self._outcome.faults.sort(key=lambda fault: fault.at_us)
        left = len(self._scenario.faults) - len(self._outcome.faults)
        if left and not self._outcome.invalid:
            self._outcome.invalid.append(
                f"{left} of {len(self._scenario.faults)} faults were not over when the load ended"
            )

    async def _watch_cpu(self, users: Child) -> None:
        """A Locust process that has no core left measures itself."""
        loop = asyncio.get_running_loop()
        busy = 0
        while True:
            before, started = users.cpu_seconds(), loop.time()
            await asyncio.sleep(1.0)
            used = users.cpu_seconds() - before
            busy = busy + 1 if used / (loop.time() - started) > MAX_GENERATOR_CPU else 0
            if busy == 5:
                self._outcome.invalid.append(f"Locust used over {MAX_GENERATOR_CPU:.0%} of a core for 5 s")

    async def _show(self, sampler: Sampler) -> None:
        log = self._directory / "fleet.log"
        begun = asyncio.get_running_loop().time()
        while True:
            await asyncio.sleep(1.0)
            elapsed = asyncio.get_running_loop().time() - begun
            fleet = last_status(log)
            oldest = sampler.series["oldest_row_age_s"].statistics().get("last")
            self._progress.show(
                elapsed, self._scenario.duration_seconds, fleet, sampler.rows_per_second, oldest, self._outcome.findings
            )

    # -- the end

    async def _verify_rest(self, rolling: RollingVerifier) -> None:
        """Everything that the rolling verification has not seen yet; nothing is pruned any more."""
        self._progress.say("verifying what is left")
        retention_us = int(self._scenario.storage.retention_seconds * 1e6)
        try:
            await rolling.finish(now_us() - retention_us)
        except (LedgerError, *AWAY) as error:
            self._outcome.invalid.append(f"the ledger could not be verified to its end: {error}")

    def _measure(self) -> None:
        """Gather what the parts measured, as far as the run came."""
        outcome, measured = self._outcome, self._outcome.measured
        if self._sampler is not None:
            measured.update(self._sampler.series)
            measured["insert_batch_ms"] = self._sampler.flushes()
            measured["server_unready_s"] = self._sampler.unready_seconds
            for name in ("rows_replayed", "batches_replayed"):
                measured[name] = self._sampler.total(f"seatrial_{name}_total")
        if self._server is not None:
            measured["server_restarts"] = float(self._server.restarts)
            measured["server_failures"] = float(outcome.server_failures)
        if self._network is not None:
            measured["connection_resets"] = float(self._network.carried.resets)
            measured["withheld_bytes"] = float(self._network.carried.withheld_bytes)
        if self._fleet is not None:
            try:
                report = read_report(self._directory / REPORT)
            except (OSError, ValueError) as error:
                outcome.invalid.append(f"the fleet left no report (exit code {self._fleet.exit_code}): {error}")
            else:
                told = fleet_catalogue(report, outcome.faults)
                measured.update({name: told[name] for name in told if measurable(name, self._scenario)})
                outcome.invalid += [f"fleet: {reason}" for reason in report["invalid"]]
        if self._users is not None:
            try:
                recorded = read_measurements(self._directory / MEASUREMENTS)
            except (OSError, ValueError) as error:
                code = self._users.exit_code
                outcome.invalid.append(f"the users left no measurements (exit code {code}): {error}")
            else:
                found = catalogue([recorded])
                measured.update({name: found[name] for name in found if measurable(name, self._scenario)})
        if outcome.audit is not None:
            measured.update(outcome.audit.measured())

    def _result(self) -> Result:
        """Judge what there is."""
        outcome, findings = self._outcome, self._outcome.findings
        for kind in ("missing", "foreign", "altered"):
            outcome.measured[f"ledger_{kind}"] = float(findings.counts[kind])
        outcome.measured["ledger_verified_fraction"] = findings.verified_fraction
        if findings.unverified:
            outcome.invalid.append(f"{findings.unverified} stored rows unverified: the fleet's ledger fell silent")
        self._write("findings.json", findings)
        if outcome.audit is not None:
            self._write("audit.json", outcome.audit)
        return summarise(
            self._scenario,
            started_at_us=self._started_us,
            ended_at_us=now_us(),
            environment=environment(outcome.postgres),
            measured=outcome.measured,
            judged=judge(self._scenario, outcome.measured),
            faults=outcome.faults,
            invalid=outcome.invalid,
            interrupted=outcome.interrupted,
        )

    def _write(self, name: str, found: Findings | AuditFindings) -> None:
        (self._directory / name).write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")


class _Background:
    """Tasks beside the load, all ended with it; the first that fails ends the load too."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Own a task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        return task

    async def first_of(self, work: Awaitable[int], timeout_seconds: float) -> int | None:
        """The result of `work`; None: not in time.

        Raises:
            Exception: what a task raised that failed meanwhile.
        """
        waited = asyncio.ensure_future(work)
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        try:
            while not waited.done():
                left = deadline - asyncio.get_running_loop().time()
                running = {task for task in self._tasks if not task.done()}
                done, _ = await asyncio.wait(
                    {waited, *running}, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    return None
                for task in done - {waited}:
                    task.result()
            return int(waited.result())
        finally:
            waited.cancel()


async def run(scenario: Scenario, directory: Path, database_url: str | None) -> Result:
    """Perform a run; SIGINT and SIGTERM end it early and in order, a second one at once.

    Raises:
        StageError, ChildError: the environment could not be set up.
    """
    loop = asyncio.get_running_loop()
    with Progress(sys.stderr) as progress:
        progress.say(f"{scenario.name}: {scenario.question.strip()}")
        performing = asyncio.ensure_future(Run(scenario, directory, database_url, progress).perform())
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, performing.cancel)
        try:
            return await performing
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


__all__ = ["ChildError", "Run", "StageError", "run"]
