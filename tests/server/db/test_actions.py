"""Steps of actions that meet in the database: each is one statement, and the second to come sees what the first did."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import asyncpg
import pytest

from server.action_records import ActionRecord, Admitted, Denial, Result, Taken
from server.auth.principal import User
from server.db.action_statements import EXPIRE, TAKE_RESULTS
from server.db.actions import ActionTable
from server.db.pool import Database
from server.db.storage.times import to_datetime
from server.errors import DatabaseDownError
from tests.support.actions import request
from tests.support.sockets import DEADLINE_SECONDS

T = TypeVar("T")
USER = User(subject="ada", org="o", role="operator", expires_at=4e9, issued_at=1.7e9, token_id="t")
SENT_AT = 2_000_000
EXPIRED_AT = 60_000_000


@pytest.fixture
def table(pool: Database) -> ActionTable:
    """Actions of a database without any."""
    return ActionTable(pool, max_open=100)


async def sent_action(table: ActionTable) -> ActionRecord:
    """One action that is on its way to its agent."""
    await table.decide(USER, request(action_id="a"))
    (sent,), denied = await table.mark_sent(["a"], SENT_AT)
    assert not denied
    return sent


async def result_and_audit(connection: asyncpg.Connection) -> tuple[str, list[str]]:
    """State of the only action, and the results of its audit rows."""
    state = await connection.fetchval("SELECT state FROM action")
    return state, [row["result"] for row in await connection.fetch("SELECT result FROM audit")]


async def blocked(connection: asyncpg.Connection) -> None:
    """Wait until somebody waits for a lock of this connection."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
        ):
            await asyncio.sleep(0.005)


async def while_held(connection: asyncpg.Connection, step: Awaitable[T], statement: str, *args: object) -> T:
    """What `step` answers if it meets rows that `statement` has changed and not committed yet."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.fetch(statement, *args)
    task = asyncio.ensure_future(step)
    await blocked(connection)
    await transaction.commit()
    async with asyncio.timeout(DEADLINE_SECONDS):
        return await task


async def test_many_who_ask_at_once_with_one_key(table: ActionTable, connection: asyncpg.Connection) -> None:
    """One of them becomes the action, with one audit row; the others are answered with it."""
    asked = [request(action_id=f"a{i}", idempotency_key="k") for i in range(8)]

    answers = await asyncio.gather(*(table.decide(USER, each) for each in asked))

    admitted = [answer for answer in answers if isinstance(answer, Admitted)]
    assert len(admitted) == 8
    assert sorted(answer.replayed for answer in admitted) == [False] + [True] * 7
    assert len({answer.action.action_id for answer in admitted}) == 1
    assert await result_and_audit(connection) == ("pending", ["pending"])


async def test_two_who_ask_for_different_things_with_one_key(
    table: ActionTable, connection: asyncpg.Connection
) -> None:
    """The second is refused by name, with an audit row of its own."""
    one, two = (request(action_id=kind, kind=kind, idempotency_key="k") for kind in ("start", "restart"))

    answers = await asyncio.gather(table.decide(USER, one), table.decide(USER, two))

    (denial,) = [answer for answer in answers if isinstance(answer, Denial)]
    assert denial.code == "idempotency_conflict"
    state, results = await result_and_audit(connection)
    assert (state, sorted(results)) == ("pending", ["denied", "pending"])


async def test_a_result_that_meets_its_expiry(table: ActionTable, connection: asyncpg.Connection) -> None:
    """Given up as unknown a moment before: what the agent reports is still the end of it, in the audit row too."""
    action = await sent_action(table)
    result = Result(
        org="o", host="h1", action_id=action.action_id, outcome="succeeded", finished_at=3_000_000, detail=""
    )
    now = to_datetime(EXPIRED_AT)

    taken = await while_held(connection, table.take_results([result]), EXPIRE, now, now)

    assert isinstance(taken, Taken)
    assert [changed.state for changed in taken.changed] == ["succeeded"]
    assert (taken.repeated, taken.unasked) == (0, 0)
    assert await result_and_audit(connection) == ("succeeded", ["succeeded"])


async def test_an_expiry_that_meets_the_result(table: ActionTable, connection: asyncpg.Connection) -> None:
    """Reported a moment before: nothing is given up."""
    action = await sent_action(table)
    at = to_datetime(3_000_000)
    result = [[action.action_id], ["o"], ["h1"], ["failed"], [at], ["it would not start"]]

    expired = await while_held(connection, table.expire(EXPIRED_AT, 0), TAKE_RESULTS, *result)

    assert expired == []
    assert await result_and_audit(connection) == ("failed", ["failed"])


async def test_results_that_cannot_be_stored_change_nothing(table: ActionTable, connection: asyncpg.Connection) -> None:
    """If the audit row cannot follow, the action does not end either: the agent repeats its result."""
    action = await sent_action(table)
    result = Result(
        org="o", host="h1", action_id=action.action_id, outcome="succeeded", finished_at=3_000_000, detail=""
    )
    await connection.execute("""
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'disk full' USING ERRCODE = '53100'; END $$;
        CREATE TRIGGER fail BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION fail();
    """)

    with pytest.raises(DatabaseDownError, match="disk full"):
        await table.take_results([result])
    assert await result_and_audit(connection) == ("sent", ["sent"])
    await connection.execute("DROP TRIGGER fail ON audit")

    assert len((await table.take_results([result])).changed) == 1
    assert await result_and_audit(connection) == ("succeeded", ["succeeded"])
