"""Actions over REST, to an agent and back; and the audit log that tells of each attempt once."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from server.action_records import ActionRequest, Decision
from server.auth.principal import User
from server.errors import DatabaseDownError
from server.protocol.identity import container_id
from tests.support.server import AgentClient, RunningServer, container, docker_id, eventually, now_us, running_server

CONTAINER = str(container_id("org-a", "host-1", docker_id(0)))
PROTECTED = str(container_id("org-a", "host-1", docker_id(1)))
HELLO: dict[str, Any] = {"containers": [container(0), container(1, protected=True)]}


async def ask(
    server: RunningServer,
    kind: str = "restart",
    *,
    role: str = "operator",
    target: str = CONTAINER,
    org: str = "org-a",
    query: str = "",
    body: dict[str, Any] | None = None,
    **headers: str,
) -> httpx.Response:
    """POST an action."""
    return await server.call(
        "POST", f"/api/containers/{target}/actions{query}", server.user_token(org, role),
        json={"kind": kind, "reason": "because"} | (body or {}), **headers,
    )  # fmt: skip


async def audit(server: RunningServer, query: str = "", org: str = "org-a") -> list[dict[str, Any]]:
    """The audit log, newest first."""
    answer = await server.get(f"/api/audit{query}", server.user_token(org, "admin"))
    assert answer.status_code == 200, answer.text
    entries: list[dict[str, Any]] = answer.json()["entries"]
    return entries


async def report(agent: AgentClient, action_id: str, outcome: str = "succeeded", detail: str = "") -> None:
    """Tell how an action ended, and wait until that is stored."""
    await agent.send(
        {"type": "action_result", "action_id": action_id, "outcome": outcome, "finished_at": now_us(), "detail": detail}
    )
    await agent.until("result_ack", lambda m: m["action_id"] == action_id)


async def find(server: RunningServer, action_id: str) -> dict[str, Any]:
    """An action as it stands."""
    found: dict[str, Any] = (await server.get(f"/api/actions/{action_id}", server.user_token())).json()
    return found


async def in_state(server: RunningServer, action_id: str, state: str) -> dict[str, Any]:
    """An action once it is in a state."""

    async def check() -> bool:
        return bool((await find(server, action_id))["state"] == state)

    await eventually(check, f"action {state}")
    return await find(server, action_id)


class TestTheWayThere:
    """From the request to the agent and back."""

    async def test_a_round_trip(self, server: RunningServer) -> None:
        """The agent gets the command by its own number; its result ends the action, the audit row and the wait."""
        async with server.agent(**HELLO) as agent, server.live() as live:
            await live.send({"type": "subscribe", "topics": ["actions"]})
            await live.until("snapshot")
            asked = asyncio.create_task(ask(server, "stop", query="?wait_seconds=20"))
            command = await agent.until("action")
            assert (command["kind"], command["ref"]) == ("stop", 0)
            await report(agent, command["action_id"], detail="done")
            answer = await asked
            states = [(await live.until("action"))["action"]["state"] for _ in range(3)]

        assert answer.status_code == 200
        assert answer.json() | {"state": "succeeded", "detail": "done", "requested_by": "somebody"} == answer.json()
        assert answer.headers["location"] == f"/api/actions/{command['action_id']}"
        assert states == ["pending", "sent", "succeeded"]
        (entry,) = await audit(server)
        assert entry | {
            "actor": "somebody", "role": "operator", "action": "container.stop", "target": f"container:{CONTAINER}",
            "reason": "because", "result": "succeeded", "action_id": command["action_id"],
        } == entry  # fmt: skip

    async def test_without_a_wait_the_answer_comes_at_once(self, server: RunningServer) -> None:
        """202, and the action can be followed; a failure carries what Docker said."""
        async with server.agent(**HELLO) as agent:
            answer = await ask(server, "start")
            assert (answer.status_code, answer.json()["state"]) == (202, "pending")
            command = await agent.until("action")
            assert (await in_state(server, command["action_id"], "sent"))["sent_at"]
            await report(agent, command["action_id"], "failed", "no such container")

        assert await find(server, command["action_id"]) | {
            "state": "failed",
            "detail": "no such container",
        } == await find(server, command["action_id"])

    async def test_an_offline_agent_gets_it_when_it_comes(self, server: RunningServer) -> None:
        """Row 42: within its life a command waits for its agent."""
        async with server.agent(**HELLO):
            pass
        answer = await ask(server)
        async with server.agent(**HELLO) as agent:
            assert (await agent.until("action"))["action_id"] == answer.json()["action_id"]

    async def test_a_late_agent_does_not_get_it(self, database: str) -> None:
        """Row 42: past its life it is expired, by the server's clock, and never executed."""
        async with running_server(database, action_grace_seconds=0) as server:
            async with server.agent(**HELLO):
                pass
            answer = await ask(server, body={"expires_in_seconds": 1})
            await in_state(server, answer.json()["action_id"], "expired")
            async with server.agent(**HELLO) as agent:
                await agent.send({"type": "heartbeat", "at": now_us()})
                types = [(await agent.receive())["type"]]
            assert types == ["heartbeat"]
            assert [entry["result"] for entry in await audit(server)] == ["expired"]

    async def test_it_is_never_sent_twice(self, server: RunningServer) -> None:
        """An agent that connects again after it was sent a command is not sent it again."""
        async with server.agent(**HELLO) as agent:
            answer = await ask(server)
            await agent.until("action")
        async with server.agent(**HELLO) as agent:
            await agent.send({"type": "heartbeat", "at": now_us()})
            assert (await agent.receive())["type"] == "heartbeat"
            assert (await find(server, answer.json()["action_id"]))["state"] == "sent"

    async def test_who_says_nothing_ends_as_unknown(self, database: str) -> None:
        """Sent, and no result after expiry and grace: unknown; the result that comes after all is taken."""
        async with running_server(database, action_grace_seconds=0.1) as server, server.agent(**HELLO) as agent:
            action_id = (await ask(server, body={"expires_in_seconds": 1})).json()["action_id"]
            await agent.until("action")
            await in_state(server, action_id, "unknown")
            await report(agent, action_id)
            assert (await find(server, action_id))["state"] == "succeeded"
            assert [entry["result"] for entry in await audit(server)] == ["succeeded"]

    async def test_a_result_is_repeated_in_the_next_hello(self, server: RunningServer) -> None:
        """What an agent could not report it says in its next hello, and is told once it is stored."""
        async with server.agent(**HELLO) as agent:
            action_id = (await ask(server)).json()["action_id"]
            await agent.until("action")
        result = {"action_id": action_id, "outcome": "succeeded", "finished_at": now_us()}
        async with server.agent(**HELLO, unacknowledged_results=[result]) as agent:
            await agent.until("result_ack", lambda m: m["action_id"] == action_id)

        assert (await find(server, action_id))["state"] == "succeeded"

    async def test_results_of_others_change_nothing(self, server: RunningServer) -> None:
        """Row 43: a result for another host's action, or a second one, is ignored and counted."""
        counters = server.service.counters
        async with server.agent(**HELLO) as agent, server.agent(host="host-2") as other:
            action_id = (await ask(server)).json()["action_id"]
            await agent.until("action")
            await report(other, action_id, "failed")
            assert counters.action_results_unknown == 1
            assert (await find(server, action_id))["state"] == "sent"
            await report(agent, action_id)
            await report(agent, action_id, "failed")
            await report(agent, "no-such-action")

        assert (counters.action_results_repeated, counters.action_results_unknown) == (1, 2)
        assert (await find(server, action_id))["state"] == "succeeded"

    async def test_a_time_out_of_this_world_is_the_servers(self, server: RunningServer) -> None:
        """`finished_at` is the agent's word, but never later than now."""
        async with server.agent(**HELLO) as agent:
            action_id = (await ask(server)).json()["action_id"]
            await agent.until("action")
            far = {"type": "action_result", "action_id": action_id, "outcome": "succeeded", "finished_at": 2**63 - 1}
            await agent.send(far)
            await agent.until("result_ack")
        assert (await find(server, action_id))["finished_at"] <= now_us()


class TestPolicy:
    """Who may do what."""

    @pytest.mark.parametrize(
        ("role", "kind", "target", "status", "title"),
        [
            ("viewer", "restart", CONTAINER, 403, "forbidden"),
            ("operator", "stop", PROTECTED, 403, "protected"),
            ("operator", "restart", PROTECTED, 403, "protected"),
        ],
    )
    async def test_a_denied_attempt_has_its_row(
        self, server: RunningServer, role: str, kind: str, target: str, status: int, title: str
    ) -> None:
        """Row 39: refused with the reason, one audit row, nothing sent to the agent."""
        async with server.agent(**HELLO) as agent:
            answer = await ask(server, kind, role=role, target=target)
            await agent.send({"type": "heartbeat", "at": now_us()})
            assert (await agent.receive())["type"] == "heartbeat"

        assert (answer.status_code, answer.json()["title"]) == (status, title)
        assert answer.headers["content-type"] == "application/problem+json"
        (entry,) = await audit(server)
        assert (entry["role"], entry["action"], entry["target"], entry["result"]) == (
            role, f"container.{kind}", f"container:{target}", "denied",
        )  # fmt: skip
        assert entry["detail"].startswith(f"{title}: ")
        assert entry["finished_at"] >= entry["at"] - 1_000_000

    @pytest.mark.parametrize(("role", "kind"), [("admin", "stop"), ("owner", "restart"), ("operator", "start")])
    async def test_what_is_allowed_to_protected_containers(self, server: RunningServer, role: str, kind: str) -> None:
        """Admins may stop them, Operators may start them."""
        async with server.agent(**HELLO) as agent:
            answer = await ask(server, kind, role=role, target=PROTECTED)
            assert (await agent.until("action"))["ref"] == 1
        assert answer.status_code == 202

    async def test_a_container_that_is_gone(self, server: RunningServer) -> None:
        """409, with its audit row; it is known for as long as its rows are."""
        async with server.agent(**HELLO):
            pass
        async with server.agent(containers=[container(1)]):
            answer = await ask(server)
        assert (answer.status_code, answer.json()["title"]) == (409, "container_gone")
        assert [entry["result"] for entry in await audit(server)] == ["denied"]

    async def test_protection_that_comes_after_the_click(self, server: RunningServer) -> None:
        """Row 44: what is allowed at the click and not any more at sending is denied, and not sent."""
        async with server.agent(**HELLO):
            pass
        action_id = (await ask(server)).json()["action_id"]
        async with server.agent(containers=[container(0, protected=True)]):
            assert (await in_state(server, action_id, "failed"))["detail"].startswith("denied: ")
        (entry,) = await audit(server)
        assert entry["result"] == "denied"

    async def test_a_user_revoked_after_the_click(self, server: RunningServer, database: str) -> None:
        """Row 44: the revocation list in the database counts at sending."""
        async with server.agent(**HELLO):
            pass
        action_id = (await ask(server)).json()["action_id"]
        connection = await asyncpg.connect(database)
        await connection.execute(
            "INSERT INTO revocation (org, kind, subject, revoked_at, revoked_by, reason)"
            " VALUES ('org-a', 'user', 'somebody', now() + interval '1 minute', 'admin', 'left')"
        )
        await connection.close()
        async with server.agent(**HELLO):
            await eventually(lambda: server.service.counters.actions_ended["failed"] == 1, "denied")
        token = server.user_token(subject="another")
        found = (await server.get(f"/api/actions/{action_id}", token)).json()
        assert (found["state"], found["detail"]) == ("failed", "denied: the user was revoked before it was sent")

    async def test_open_actions_are_bounded(self, database: str) -> None:
        """Past max_open_actions the answer is 429, and the attempt has its row."""
        async with running_server(database, max_open_actions=2) as server:
            async with server.agent(**HELLO), server.agent(org="org-b", **HELLO):
                pass
            codes = [(await ask(server)).status_code for _ in range(3)]
            other = str(container_id("org-b", "host-1", docker_id(0)))
            assert (await ask(server, target=other, org="org-b")).status_code == 202
            assert codes == [202, 202, 429]
            assert [entry["result"] for entry in await audit(server)] == ["denied", "pending", "pending"]


class TestRequests:
    """What is asked, and how."""

    async def test_the_same_key_is_the_same_action(self, server: RunningServer) -> None:
        """Row 41: one execution, one audit row, the same answer; other parameters are a conflict."""
        async with server.agent(**HELLO) as agent:
            first = await ask(server, Idempotency_Key="k1")
            again = await asyncio.gather(*(ask(server, Idempotency_Key="k1") for _ in range(5)))
            other = await ask(server, "stop", Idempotency_Key="k1")
            command = await agent.until("action")
            await report(agent, command["action_id"])
            late = await ask(server, Idempotency_Key="k1")
            await agent.send({"type": "heartbeat", "at": now_us()})
            assert (await agent.receive())["type"] == "heartbeat"

        assert {answer.json()["action_id"] for answer in again} == {first.json()["action_id"]}
        assert "idempotent-replayed" not in first.headers
        assert all(answer.headers["idempotent-replayed"] == "true" for answer in again)
        assert (other.status_code, other.json()["title"]) == (409, "idempotency_conflict")
        assert (late.status_code, late.json()["state"]) == (200, "succeeded")
        assert sorted(entry["result"] for entry in await audit(server)) == ["denied", "succeeded"]

    async def test_an_unclear_commit_is_asked_again(
        self, server: RunningServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It was admitted, the answer got lost: 503. The repetition gives the same action, and it runs, once."""
        table = server.service.action_table
        decide = table.decide

        async def lost(user: User, request: ActionRequest) -> Decision:
            await decide(user, request)
            raise DatabaseDownError("the connection broke")

        async with server.agent(**HELLO) as agent:
            monkeypatch.setattr(table, "decide", lost)
            assert (await ask(server, Idempotency_Key="k")).status_code == 503
            monkeypatch.undo()
            again = await ask(server, Idempotency_Key="k")
            command = await agent.until("action")
            assert again.headers["idempotent-replayed"] == "true"
            assert command["action_id"] == again.json()["action_id"]
        assert len(await audit(server)) == 1

    async def test_an_unclear_commit_is_found(self, server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Even if nobody asks again, what was admitted is sent."""
        table = server.service.action_table
        decide = table.decide

        async def lost(user: User, request: ActionRequest) -> Decision:
            await decide(user, request)
            raise DatabaseDownError("the connection broke")

        async with server.agent(**HELLO) as agent:
            monkeypatch.setattr(table, "decide", lost)
            assert (await ask(server, body={"expires_in_seconds": 600})).status_code == 503
            await agent.until("action")

    async def test_an_unclear_sent_is_never_sent(self, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """It was marked sent, the answer got lost: no frame leaves, and it waits for its agent no longer."""
        async with running_server(database) as server, server.agent(**HELLO) as agent:
            table, actions = server.service.action_table, server.service.actions
            mark_sent = table.mark_sent

            async def lost(action_ids: Sequence[str], now: int) -> Any:
                await mark_sent(action_ids, now)
                monkeypatch.undo()
                raise DatabaseDownError("the connection broke")

            monkeypatch.setattr(table, "mark_sent", lost)
            action_id = (await ask(server, body={"expires_in_seconds": 600})).json()["action_id"]
            await in_state(server, action_id, "sent")
            await eventually(lambda: actions.pending == 0, "waits no longer")
            assert (await find(server, action_id))["state"] == "sent"
            await agent.send({"type": "heartbeat", "at": now_us()})
            assert (await agent.receive())["type"] == "heartbeat"

    async def test_results_nobody_asked_for_take_no_place_of_others(
        self, server: RunningServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While the database pauses one organisation's inventions are dropped past the bound; another's result is kept."""
        monkeypatch.setattr("server.action_results.MAX_RESULTS", 5)
        actions = server.service.actions
        store = actions._store.take_results
        go = asyncio.Event()

        async def slow(results: Any) -> Any:
            await go.wait()
            return await store(results)

        other = str(container_id("org-b", "host-1", docker_id(0)))
        async with server.agent(**HELLO) as bad, server.agent(org="org-b", **HELLO) as good:
            action_id = (await ask(server, target=other, org="org-b")).json()["action_id"]
            await good.until("action")
            monkeypatch.setattr(actions._store, "take_results", slow)
            done = {"type": "action_result", "outcome": "succeeded", "finished_at": now_us()}
            for number in range(20):
                await bad.send(done | {"action_id": f"invented-{number}"})
            await eventually(lambda: server.service.counters.action_results_dropped >= 14, "dropped")
            await good.send(done | {"action_id": action_id})
            go.set()
            await good.until("result_ack", lambda m: m["action_id"] == action_id)

    async def test_the_same_key_of_another(self, server: RunningServer) -> None:
        """A key is its user's: another user, and one of the same name elsewhere, gets an action of its own."""
        theirs = str(container_id("org-b", "host-1", docker_id(0)))
        async with server.agent(**HELLO), server.agent(org="org-b", **HELLO):
            first = await ask(server, Idempotency_Key="k")
            colleague = await server.call(
                "POST", f"/api/containers/{CONTAINER}/actions", server.user_token(role="operator", subject="colleague"),
                json={"kind": "restart", "reason": "because"}, Idempotency_Key="k",
            )  # fmt: skip
            elsewhere = await ask(server, target=theirs, org="org-b", Idempotency_Key="k")
        answers = (first, colleague, elsewhere)
        assert [answer.status_code for answer in answers] == [202, 202, 202]
        assert len({answer.json()["action_id"] for answer in answers}) == 3

    async def test_the_same_key_at_once(self, server: RunningServer) -> None:
        """Row 41: of many that ask at the same moment one makes the action."""
        async with server.agent(**HELLO):
            answers = await asyncio.gather(*(ask(server, Idempotency_Key="k") for _ in range(20)))
        assert len({answer.json()["action_id"] for answer in answers}) == 1
        assert sum("idempotent-replayed" in answer.headers for answer in answers) == 19
        assert len(await audit(server)) == 1

    @pytest.mark.parametrize(
        "body",
        [
            {"kind": "pause"}, {"kind": ["stop"]}, {"reason": ""}, {"reason": "  "}, {"reason": "x" * 501},
            {"reason": None}, {"expires_in_seconds": 0}, {"expires_in_seconds": 3601}, {"expires_in_seconds": "soon"},
            {"unknown": 1},
        ],
    )  # fmt: skip
    async def test_a_bad_body(self, server: RunningServer, body: dict[str, Any]) -> None:
        """422 names the field; nothing is audited, nothing is sent."""
        async with server.agent(**HELLO):
            answer = await ask(server, body=body)
        assert answer.status_code == 422
        assert next(iter(body)) in answer.text
        assert await audit(server) == []

    @pytest.mark.parametrize("target", ["../../version", "all", "", "-1", "1e3", str(2**63), "9" * 40, "0x10", "%00"])
    async def test_a_bad_id(self, server: RunningServer, target: str) -> None:
        """Row 40: 404, 405 or 422, never another container, never all."""
        async with server.agent(**HELLO):
            answer = await ask(server, target=target)
        assert answer.status_code in {404, 405, 422}
        assert await audit(server) == []

    async def test_of_another_organisation(self, server: RunningServer) -> None:
        """Row 37: the same answer as for what does not exist, and no row anywhere."""
        async with server.agent(**HELLO):
            foreign = await ask(server, org="org-b", role="owner")
            missing = await ask(server, org="org-b", role="owner", target="12345")
            action_id = (await ask(server)).json()["action_id"]
            theirs = await server.get(f"/api/actions/{action_id}", server.user_token("org-b", "owner"))
            listed = await server.get("/api/actions", server.user_token("org-b", "owner"))
        assert foreign.status_code == missing.status_code == theirs.status_code == 404
        assert foreign.json()["title"] == missing.json()["title"]
        assert listed.json() == {"actions": [], "next": None}
        assert await audit(server, org="org-b") == []

    async def test_hostile_text_is_kept_as_it_is(self, server: RunningServer) -> None:
        """Rows 35 and 36: quotes and line ends go in and come out; U+0000 becomes U+FFFD."""
        reason = '\'; DROP TABLE action; --\r\n{"level":"error"}\x00'
        async with server.agent(**HELLO):
            answer = await ask(server, body={"reason": reason})
        assert answer.json()["reason"] == reason.replace("\x00", "\ufffd")
        (entry,) = await audit(server)
        assert entry["reason"] == reason.replace("\x00", "\ufffd")


class TestReading:
    """Lists, filters, files."""

    async def test_actions_are_paged_newest_first(self, server: RunningServer) -> None:
        """Pages together hold each action once; filters apply."""
        async with server.agent(**HELLO):
            ids = [(await ask(server, kind)).json()["action_id"] for kind in ("start", "stop", "restart")]
        token = server.user_token()
        first = (await server.get("/api/actions?limit=2", token)).json()
        second = (await server.get(f"/api/actions?limit=2&after={first['next']}", token)).json()
        assert [a["action_id"] for a in first["actions"] + second["actions"]] == ids[::-1]
        assert second["next"] is None
        for query, count in (
            (f"container={CONTAINER}", 3),
            (f"container={PROTECTED}", 0),
            ("host=host-1", 3),
            ("host=x", 0),
        ):
            assert len((await server.get(f"/api/actions?{query}", token)).json()["actions"]) == count
        assert (await server.get("/api/actions?after=rubbish", token)).status_code == 422

    async def test_the_log_is_filtered_and_paged(self, server: RunningServer) -> None:
        """By actor, action, target, result, reason and time; newest first."""
        before = now_us()
        async with server.agent(**HELLO):
            for role, reason in (("operator", "a"), ("viewer", "b"), ("operator", "c")):
                await ask(server, role=role, body={"reason": reason})
        assert [entry["reason"] for entry in await audit(server)] == ["c", "b", "a"]
        queries = {
            "result=denied": ["b"], "reason=a": ["a"], "actor=somebody": ["c", "b", "a"], "actor=x": [],
            "action=container.restart": ["c", "b", "a"], f"target=container:{PROTECTED}": [],
            f"since={before}": ["c", "b", "a"], f"until={before}": [], "since=2100-01-01T00:00:00Z": [],
        }  # fmt: skip
        for query, reasons in queries.items():
            assert [entry["reason"] for entry in await audit(server, f"?{query}")] == reasons, query
        token = server.user_token(role="admin")
        first = (await server.get("/api/audit?limit=2", token)).json()
        second = (await server.get(f"/api/audit?limit=2&after={first['next']}", token)).json()
        assert [entry["reason"] for entry in first["entries"] + second["entries"]] == ["c", "b", "a"]

    async def test_only_admins_read_the_log(self, server: RunningServer) -> None:
        """Viewer and Operator get 403."""
        codes = [
            (await server.get("/api/audit", server.user_token(role=role))).status_code
            for role in ("viewer", "operator", "admin", "owner")
        ]
        assert codes == [403, 403, 200, 200]

    async def test_the_export_is_whole_and_harmless(
        self, server: RunningServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """CSV over several pages holds every row once; what a spreadsheet would run is defused."""
        monkeypatch.setattr("server.http.audit.EXPORT_PAGE", 2)
        reasons = ["=cmd|'/c calc'!A0", "plain", "+1", '"quoted", twice', "@x"]
        async with server.agent(**HELLO):
            for reason in reasons:
                await ask(server, body={"reason": reason})
        answer = await server.get("/api/audit?format=csv", server.user_token(role="admin"))
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert answer.headers["content-type"].startswith("text/csv")
        assert [row["reason"] for row in rows[::-1]] == [
            "'=cmd|'/c calc'!A0", "plain", "'+1", '"quoted", twice', "'@x",
        ]  # fmt: skip


class TestRestarts:
    """A process that goes between two steps."""

    async def test_what_is_pending_survives(self, database: str) -> None:
        """The next process sends what this one had no agent for; the snapshot of the live topic shows it."""
        async with running_server(database) as server:
            async with server.agent(**HELLO):
                pass
            action_id = (await ask(server, body={"expires_in_seconds": 600})).json()["action_id"]
        async with running_server(database) as server, server.live() as live:
            await live.send({"type": "subscribe", "topics": ["actions"]})
            snapshot = await live.until("snapshot")
            assert [action["action_id"] for action in snapshot["actions"]] == [action_id]
            async with server.agent(**HELLO) as agent:
                assert (await agent.until("action"))["action_id"] == action_id

    async def test_a_cut_after_sent_is_not_sent_again(self, database: str) -> None:
        """`sent` is committed, the frame did not leave, the process is gone: unknown in the end, never twice."""
        async with cut(database, "after_sent") as (server, agent):
            action_id = (await ask(server, body={"expires_in_seconds": 2})).json()["action_id"]
            await in_state(server, action_id, "sent")
            await agent.send({"type": "heartbeat", "at": now_us()})
            assert (await agent.receive())["type"] == "heartbeat"
        async with running_server(database, action_grace_seconds=0) as server, server.agent(**HELLO) as agent:
            await in_state(server, action_id, "unknown")
            await agent.send({"type": "heartbeat", "at": now_us()})
            assert (await agent.receive())["type"] == "heartbeat"


@asynccontextmanager
async def cut(database: str, name: str) -> AsyncIterator[tuple[RunningServer, AgentClient]]:
    """A server whose work stands still for ever at a seam, and an agent."""

    async def seam(reached: str) -> None:
        if reached == name:
            await asyncio.Event().wait()

    async with running_server(database, seam) as server, server.agent(**HELLO) as agent:
        yield server, agent
