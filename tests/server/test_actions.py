"""Actions under cuts at each step, and restarts of either side: at most once, known in the end, audited once."""

import asyncio
import json
from collections import Counter
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from server import actions as actions_module
from server.action_records import Denial
from server.actions import Actions
from server.agents import Session
from server.auth.principal import User
from server.counters import Counters
from server.db import migrate
from server.db.actions import ActionTable
from server.db.pool import Database
from server.db.storage.plain import PlainStorage
from server.protocol.messages import ActionReport, ActionStatus
from server.registry import Registry
from tests.support import postgres
from tests.support.core import container, hello, make_registry
from tests.support.sockets import ScriptedSocket

SECOND_US = 1_000_000
START_US = 1_760_000_000 * SECOND_US
GRACE_SECONDS = 5.0
LIFE_SECONDS = 10.0
USER = User(subject="ada", org="o", role="operator", expires_at=4e9, issued_at=1.7e9, token_id="t")
SEAMS = ("before_sent", "after_sent", "before_result", "after_result")


class CutError(Exception):
    """The process dies here."""


class Life:
    """One container, its agent, its server; everything may die between any two steps, but for the database."""

    def __init__(self, runner: asyncio.Runner, database: Database) -> None:
        self.runner = runner
        self.database = database
        self.now_us = START_US
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(actions_module, "now_us", lambda: self.now_us)
        self.cut_at: str | None = None
        self.epochs = 0
        self.session: Session | None = None
        self.socket: ScriptedSocket | None = None
        self.read = 0
        self.sent: Counter[str] = Counter()
        """Frames that agents received, by action: over all sockets and restarts."""
        self.executed: dict[str, str] = {}
        """Outcomes that really happened, as the agent knows them."""
        self.remembered: dict[str, str] = {}
        """Of these, the ones that this life of the agent still repeats."""
        self.asked: dict[str, str | None] = {}
        self.kinds: dict[str, str] = {}
        """What was first asked with a key."""
        self.published: list[ActionStatus] = []

        runner.run(self._empty())
        self.registry: Registry
        self.actions: Actions
        self.start_server()

    async def _empty(self) -> None:
        async with self.database.acquire() as connection:
            await connection.execute("TRUNCATE action, audit")

    def live(self, steps: list[tuple[str, Any]]) -> None:
        """Take the steps; after each what must hold is looked at, and in the end everything must be known."""
        try:
            for name, args in steps:
                getattr(self, name)(*args)
                self.nothing_is_sent_twice()
                self.rows_and_audit_agree()
            self.settle()
        finally:
            self.patch.undo()

    # -- the server

    def start_server(self) -> None:
        """A new process: nothing in memory but what the database holds."""
        self.session = self.socket = None
        self.cut_at = None

        async def build() -> None:
            self.registry = make_registry()
            self.actions = Actions(
                ActionTable(self.database, max_open=100), self.registry, Counters(),
                lambda _org, status: self.published.append(status), grace_seconds=GRACE_SECONDS, seam=self._seam,
            )  # fmt: skip
            await self.actions.load()
            self.registry.restore("o", "h1", container())

        self.runner.run(build())

    async def _seam(self, name: str) -> None:
        if name == self.cut_at:
            raise CutError(name)

    def step(self, work: Any) -> None:
        """One step of the server; cut, it is dead and a new one starts."""
        try:
            self.runner.run(work())
        except CutError:
            self.start_server()

    def restart_server(self) -> None:
        """A crash between steps."""
        self.start_server()

    def arm_cut(self, name: str) -> None:
        """The next time this place is reached the process dies."""
        self.cut_at = name

    def request(self, key: str | None, kind: Any) -> None:
        """A user asks."""

        async def ask() -> None:
            found = next(iter(self.registry.by_container))
            decision = await self.actions.request(
                USER, found, kind=kind, reason="r", life_seconds=LIFE_SECONDS, idempotency_key=key
            )
            assert decision is not None
            if isinstance(decision, Denial):
                assert decision.code == "idempotency_conflict"
                assert key is not None
                assert self.kinds[key] != kind
                return
            assert decision.replayed == (decision.action.action_id in self.asked)
            assert decision.action.kind == kind
            self.asked[decision.action.action_id] = key
            if key is not None:
                assert self.kinds.setdefault(key, kind) == kind

        self.step(ask)

    def send(self) -> None:
        """The server's task that goes down."""

        async def work() -> None:
            self.actions._pending.make_all_due()
            await self.actions.send_due()

        self.step(work)

    def store(self) -> None:
        """The server's task that goes up."""
        self.step(self.actions.store_results)

    def wait(self, seconds: int) -> None:
        """Time passes, and the server looks at the clock."""
        self.now_us += seconds * SECOND_US
        self.step(self.actions.expire)

    # -- the agent

    def connect(self, takes: int | None) -> None:
        """The agent dials; its socket may not take a frame."""

        async def dial() -> None:
            self.epochs += 1
            self.socket, self.read = ScriptedSocket(takes=takes), 0
            epoch = f"{self.epochs:08x}-0000-4000-8000-000000000000"
            self.session, _ = self.registry.connect("o", "h1", hello(container(), epoch=epoch), self.socket)
            for action_id, outcome in self.remembered.items():
                self._report(action_id, outcome)
            self.actions.agent_ready(self.session.record)

        self.runner.run(dial())

    def restart_agent(self) -> None:
        """The agent dies, and what it remembered with it."""
        self.remembered.clear()
        self.hang_up()

    def hang_up(self) -> None:
        """The connection breaks; frames not read yet are lost."""
        if self.session is not None:
            session = self.session
            self.runner.run(self._disconnect(session))
        self.session = self.socket = None

    async def _disconnect(self, session: Session) -> None:
        self.registry.disconnect(session)

    def work(self, outcome: str, tell: bool) -> None:
        """The agent reads, executes what is in time, and reports, now or on its next connection."""
        if self.socket is None:
            return
        for message in self._unread():
            if message["type"] == "action":
                action_id = message["action_id"]
                assert action_id not in self.executed, "executed twice"
                self.executed[action_id] = self.remembered[action_id] = (
                    outcome if message["expires_at"] > self.now_us else "expired"
                )
                if tell:
                    self._report(action_id, self.remembered[action_id])
            elif message["type"] == "result_ack":
                self.remembered.pop(message["action_id"], None)

    def _unread(self) -> list[dict[str, Any]]:
        assert self.socket is not None
        frames = self.socket.frames[self.read :]
        self.read = len(self.socket.frames)
        messages = [json.loads(frame) for frame in frames]
        self.sent.update(message["action_id"] for message in messages if message["type"] == "action")
        return messages

    def _report(self, action_id: str, outcome: Any) -> None:
        assert self.session is not None
        report = ActionReport(action_id=action_id, outcome=outcome, finished_at=self.now_us)
        self.actions.result(self.session.record, report)

    # -- what must hold

    def nothing_is_sent_twice(self) -> None:
        """Each command left at most once, over every socket and process."""
        assert all(count == 1 for count in self.sent.values())

    def rows_and_audit_agree(self) -> None:
        """Each action has one audit row that says how it stands; each attempt that was answered has one row."""
        rows = self.runner.run(self._rows())
        for row in rows:
            assert row["audited"] == 1
            assert row["result"] == row["state"]
        assert set(self.asked) <= {row["action_id"] for row in rows}
        keys = [row["idempotency_key"] for row in rows if row["idempotency_key"]]
        assert len(keys) == len(set(keys))

    async def _rows(self) -> list[asyncpg.Record]:
        async with self.database.acquire() as connection:
            return await connection.fetch(
                "SELECT a.*, (SELECT count(*) FROM audit u WHERE u.action_id = a.action_id) AS audited,"
                " (SELECT result FROM audit u WHERE u.action_id = a.action_id) AS result FROM action a"
            )

    def settle(self) -> None:
        """Both sides live on in peace: every action ends, and as it really went, if the agent still knows."""
        self.cut_at = None
        known = dict(self.remembered)
        for _ in range(3):
            self.connect(None)
            self.step(self.actions.store_results)
            self.work("succeeded", True)
            known |= self.remembered
            self.step(self.actions.store_results)
            self.now_us += 20 * SECOND_US
            self.step(self.actions.expire)
        for row in self.runner.run(self._rows()):
            action_id, state = row["action_id"], row["state"]
            assert state not in {"pending", "sent"}
            if action_id in known:
                assert state == known[action_id]
            elif action_id in self.executed:
                assert state in {self.executed[action_id], "unknown"}
            else:
                assert state in {"expired", "unknown"}
        self.nothing_is_left()

    def nothing_is_left(self) -> None:
        """What ended holds no memory but its place in the live topic's snapshot."""
        assert self.actions._pending._waiting == {}
        assert self.actions._results._results == {}
        assert self.actions._results._of_org == {}
        assert self.actions._watch._waiters == {}


STEPS: list[tuple[str, tuple[Any, ...]]] = [
    *[("request", (key, kind)) for key in (None, None, "k") for kind in ("restart", "restart", "stop")],
    *[("connect", (None,))] * 5,
    ("connect", (0,)),
    *[("send", ())] * 9,
    *[("work", (outcome, tell)) for outcome in ("succeeded", "failed") for tell in (True, True, False)],
    *[("store", ())] * 5,
    *[("wait", (seconds,)) for seconds in (1, 6, 12)],
    ("hang_up", ()),
    ("restart_agent", ()),
    ("restart_server", ()),
    *[("arm_cut", (name,)) for name in SEAMS],
]
"""What may happen next, the common things more often."""


def test_no_cut_runs_a_command_twice_or_loses_its_outcome(postgres_dsn: str) -> None:
    """Requests, sends, results and expiry in any order, with deaths of either side at any step."""
    with asyncio.Runner() as runner:
        dsn = runner.run(postgres.create_database(postgres_dsn))
        database = Database(dsn, pool_size=2, statement_timeout_seconds=30)

        # Without shrinking: against a database it takes longer than reading the steps.
        @settings(
            max_examples=200, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )  # fmt: skip
        @given(steps=st.lists(st.sampled_from(STEPS), min_size=10, max_size=50))
        def lives(steps: list[tuple[str, Any]]) -> None:
            Life(runner, database).live(steps)

        try:
            runner.run(prepare(database))
            lives()
        finally:
            runner.run(database.close())
            runner.run(postgres.drop_database(postgres_dsn, dsn))


async def prepare(database: Database) -> None:
    """Open the pool and make the tables."""
    await database.open(10)
    connection = await database.connect()
    await migrate.apply(connection, PlainStorage())
    await connection.close()
