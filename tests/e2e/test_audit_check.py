"""A real server, fleet and operator, and a check that finds whatever was done to the audit log behind their backs."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from loadtests.action_feed import ActionFeed
from loadtests.answers import AuditEntry
from loadtests.api import Identity
from loadtests.attempts import Attempt, AttemptLog, read_attempts
from loadtests.audit_check import AuditFindings, compare, read_audit
from loadtests.measure import now_us
from loadtests.operators import ROUND, Operator
from loadtests.places import Places
from simulator.fleet import Fleet
from simulator.ledger import LedgerReader
from simulator.plan import Plan
from tests.support.fake_client import RealClient, Recorder
from tests.support.server import DEADLINE_SECONDS, SECRET, RunningServer, eventually, running_server

RUN, ORG = "run-1", "org-a"


@asynccontextmanager
async def fleet_of(server: RunningServer, ledger: Path) -> AsyncIterator[Fleet]:
    """Three hosts of five containers, connected."""
    plan = Plan(
        url=f"{server.ws}/ws/agent", secret=SECRET, org=ORG, agents=3, containers=5, log_lines=1, interval_us=200_000,
        ramp_us=0,
    )  # fmt: skip
    stop = asyncio.Event()
    fleet = Fleet(plan, ledger)
    running = asyncio.create_task(fleet.run(stop))
    try:
        await eventually(lambda: len(fleet.agents) == 3 and all(agent.connected for agent in fleet.agents), "a fleet")
        yield fleet
    finally:
        stop.set()
        await asyncio.wait_for(running, 30)


def operate(http: str, path: Path) -> Recorder:
    """A whole round of an operator, in a thread of its own."""
    client, recorder, log = RealClient(http), Recorder(), AttemptLog(path)
    api = recorder.api(client, "ann", "operator")
    feed = ActionFeed(api, http, recorder.measurements)
    try:
        operator = Operator(api, Identity("vera"), feed, recorder.measurements, log, RUN)
        # Containers are written behind: only now there is something to act on, and the topic is open before that.
        places = Places(api)
        end = time.monotonic() + DEADLINE_SECONDS
        while places.container(lambda container: container.protected) is None:
            assert time.monotonic() < end, "no container came"
            operator.idle(0.1)
        for _ in ROUND:
            operator.prepare()
            assert operator.turn(now_us()) is not None
    finally:
        feed.close()
        client.close()
        log.close()
    return recorder


class Made:
    """What a round left behind."""

    def __init__(self, recorder: Recorder, attempts: dict[str, Attempt], server: RunningServer) -> None:
        self.recorder = recorder
        self.attempts = attempts
        self._server = server
        self.executed: dict[str, int] = {}

    async def entries(self) -> list[AuditEntry]:
        """The audit log as the API tells it."""
        token = self._server.user_token(ORG, "admin")
        return await read_audit(self._server.http, lambda: f"Bearer {token}", 0)

    async def checked(self, **executed: int) -> AuditFindings:
        """What the check finds now."""
        return compare(RUN, self.attempts, await self.entries(), self.executed | executed)


@pytest.fixture
async def made(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Made]:
    """A whole round on a server that still runs."""
    monkeypatch.setenv("SEATRIAL_JWT_SECRET", SECRET)
    monkeypatch.setenv("SEATRIAL_ORG", ORG)
    monkeypatch.delenv("SEATRIAL_USER_TOKEN", raising=False)
    async with running_server(database) as server:
        async with fleet_of(server, tmp_path / "ledger.jsonl"):
            path = tmp_path / "attempts.jsonl"
            recorder = await asyncio.to_thread(operate, server.http, path)
        made = Made(recorder, read_attempts(path), server)
        with LedgerReader(tmp_path / "ledger.jsonl") as ledger:
            ledger.poll()
            made.executed = dict(ledger.executed)
        yield made


async def execute(dsn: str, statement: str) -> None:
    """Do something to the audit log behind everybody's back."""
    connection = await asyncpg.connect(dsn)
    try:
        assert await connection.execute(statement) in {"DELETE 1", "UPDATE 1", "INSERT 0 1"}
    finally:
        await connection.close()


async def test_an_honest_round_is_clean(made: Made) -> None:
    """Ten attempts, ten rows; seven actions carried out once each; live topic, API, audit log and ledger agree."""
    findings = await made.checked()

    assert made.recorder.failures == []
    assert findings.counts == {}, findings.examples
    assert findings.attempts == findings.entries == len(ROUND)
    assert sorted(made.executed.values()) == [1] * 7
    assert made.recorder.measurements._latencies["action_round_trip_ms"].count == 7


ONE = "audit_id = (SELECT max(audit_id) FROM audit WHERE {})"
COLUMNS = "org, at, actor, role, action, target, reason, result, detail, finished_at"
TAKEN, DENIED = ONE.format("result = 'succeeded'"), ONE.format("result = 'denied'")


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        ("missing", f"DELETE FROM audit WHERE {TAKEN}"),
        ("missing", f"DELETE FROM audit WHERE {DENIED}"),
        ("duplicate", f"INSERT INTO audit ({COLUMNS}) SELECT {COLUMNS} FROM audit WHERE {DENIED}"),
        ("wrong", f"UPDATE audit SET actor = 'somebody' WHERE {TAKEN}"),
        ("wrong", f"UPDATE audit SET role = 'admin' WHERE {DENIED}"),
        ("wrong", f"UPDATE audit SET action = 'container.kill' WHERE {TAKEN}"),
        ("wrong", f"UPDATE audit SET target = 'container:1' WHERE {TAKEN}"),
        ("wrong", f"UPDATE audit SET result = 'failed' WHERE {TAKEN}"),
        ("wrong", f"UPDATE audit SET result = 'succeeded' WHERE {DENIED}"),
        ("wrong", f"UPDATE audit SET detail = 'no reason' WHERE {DENIED}"),
        ("wrong", f"UPDATE audit SET action_id = NULL WHERE {TAKEN}"),
    ],
    ids=lambda value: value.partition(" WHERE")[0],
)
async def test_a_cheated_row_is_caught(made: Made, database: str, kind: str, statement: str) -> None:
    """One row deleted, doubled or changed is one finding, of its kind."""
    await execute(database, statement)
    findings = await made.checked()

    assert findings.counts == {kind: 1}, findings.examples


async def test_an_invented_row_is_caught(made: Made, database: str) -> None:
    """A row of this run with a reason that nobody gave is one too many."""
    values = f"'{ORG}', 'ann', 'operator', 'container.stop', 'container:1', '{RUN}/invented', 'denied', 'protected: x'"
    await execute(
        database, f"INSERT INTO audit (org, actor, role, action, target, reason, result, detail) VALUES ({values})"
    )

    assert (await made.checked()).counts == {"duplicate": 1}


async def test_a_command_that_was_carried_out_twice_or_never_is_caught(made: Made) -> None:
    """The agents' ledger is the witness against the log."""
    action_id = next(iter(made.executed))
    assert (await made.checked(**{action_id: 2})).counts == {"executed_twice": 1}
    assert (await made.checked(**{action_id: 0})).counts == {"wrong": 1}


async def test_another_organisation_sees_none_of_it(made: Made) -> None:
    """The check reads its own organisation's log, and that is all that there is to read."""
    token: Any = made._server.user_token("org-b", "owner")

    assert await read_audit(made._server.http, lambda: f"Bearer {token}", 0) == []
    assert len(await made.entries()) >= len(ROUND)
