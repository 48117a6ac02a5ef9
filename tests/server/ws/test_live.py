"""The live socket, spoken to by an independent client."""

import asyncio
import json
import platform
from typing import Any

import asyncpg
import pytest
import websockets

from server.app import VERSION
from tests.support.server import (
    AgentClient,
    Client,
    RunningServer,
    container,
    eventually,
    line,
    now_us,
    running_server,
    sample,
)


def container_key(server: RunningServer, ref: int = 0, host: str = "host-1", org: str = "org-a") -> str:
    """The id of a connected agent's container."""
    return server.service.registry.records[org, host].containers[ref].key


async def subscribe(live: Client, *topics: str, **fields: Any) -> dict[str, dict[str, Any]]:
    """Subscribe, and the snapshot of each topic."""
    await live.send({"type": "subscribe", "topics": topics} | fields)
    return {topic: await live.until("snapshot", lambda m, t=topic: m["topic"] == t) for topic in topics}  # type: ignore[misc]


class TestUpgrade:
    @pytest.mark.parametrize("origin", [None, "http://evil.example", "null", "{http}.evil"])
    async def test_foreign_origins_are_forbidden(self, server: RunningServer, origin: str | None) -> None:
        """Without an Origin, or with one that is not ours to the letter, the upgrade is refused with 403."""
        headers = {"Origin": origin.format(http=server.http)} if origin else {}
        with pytest.raises(websockets.InvalidStatus) as caught:
            async with websockets.connect(
                f"{server.ws}/ws/live?token={server.user_token()}", additional_headers=headers,
                subprotocols=[websockets.Subprotocol("seatrial.live.v1")],
            ):  # fmt: skip
                pass
        assert caught.value.response.status_code == 403

    async def test_an_allowed_origin_may_watch(self, database: str) -> None:
        """An Origin of allowed_origins is taken beside the server's own."""
        origins = ("https://app.example",)
        async with (
            running_server(database, allowed_origins=origins) as server,
            server.live(origin=origins[0]) as live,
        ):
            await subscribe(live, "fleet")

    async def test_bad_credentials_are_told_by_a_close_code(self, server: RunningServer) -> None:
        """A browser cannot read the status of an upgrade: it is accepted, then closed 4001."""
        for query in ("token=rubbish", f"token={server.agent_token()}", "ticket=rubbish", "x=1"):
            async with server.live(query=query) as live:
                assert (await live.closed())[0] == 4001

    async def test_a_ticket_is_good_once(self, server: RunningServer) -> None:
        """The first who brings a ticket gets in, the second is closed 4001."""
        answer = await server.post("/api/live-tickets", server.user_token(), Origin=server.http)
        ticket = answer.json()["ticket"]
        async with server.live(query=f"ticket={ticket}") as live:
            await subscribe(live, "fleet")
        async with server.live(query=f"ticket={ticket}") as live:
            assert (await live.closed())[0] == 4001

        assert answer.status_code == 201
        assert answer.json()["expires_in_seconds"] == 30

    async def test_a_ticket_is_bound_to_its_origin(self, database: str) -> None:
        """A ticket issued to one Origin does not open the socket for another, though both are allowed."""
        async with running_server(database, allowed_origins=("https://app.example",)) as server:
            answer = await server.post("/api/live-tickets", server.user_token(), Origin="https://app.example")
            async with server.live(query=f"ticket={answer.json()['ticket']}") as live:
                assert (await live.closed())[0] == 4001

    async def test_tickets_need_a_user(self, server: RunningServer) -> None:
        """No token, rubbish, or an agent's token get a problem with 401."""
        for token, reason in ((None, "missing_token"), ("x", "invalid_token"), (server.agent_token(), "invalid_token")):
            answer = await server.post("/api/live-tickets", token)
            assert (answer.status_code, answer.json()["title"]) == (401, reason)
            assert answer.headers["content-type"] == "application/problem+json"

    async def test_a_session_ends_with_its_token(self, server: RunningServer) -> None:
        """A live socket does not outlive the token it was opened with."""
        async with server.live(query=f"token={server.user_token(seconds=1)}") as live:
            assert (await live.closed())[0] == 4001


class TestTopics:
    async def test_samples_reach_the_watchers_of_host_and_container(self, server: RunningServer) -> None:
        """One batch goes to its host's topic whole, and to each container's its own sample."""
        async with server.agent(containers=[container(0), container(1)]) as agent, server.live() as live:
            one = container_key(server, 1)
            snapshots = await subscribe(live, "host:host-1", f"container:{one}", "fleet", "actions")
            at = await agent.batch(1, metrics=[sample(1, 0), sample(2, 1)])
            host = await live.until("metrics", lambda m: m["topic"] == "host:host-1")
            own = await live.until("metrics", lambda m: m["topic"] == f"container:{one}")
            fleet = await live.until("snapshot", lambda m: m["topic"] == "fleet" and m["fleet"]["mem"] > 0)
            again = (await subscribe(live, f"container:{one}"))[f"container:{one}"]

        assert [c["name"] for c in snapshots["host:host-1"]["containers"]] == ["web-0", "web-1"]
        assert snapshots["host:host-1"]["host"]["online"] is True
        assert [s["mem"] for s in host["samples"]] == [1000, 2000]
        assert own["samples"] == [{"container": one, "at": at, "cpu": 1.0, "mem": 2000, "rx": 2, "tx": 2}]
        assert again["samples"] == own["samples"]
        assert fleet["fleet"]["hosts_online"] == 1
        assert fleet["fleet"]["mem"] == 3000

    async def test_live_values_never_go_back(self, server: RunningServer) -> None:
        """A pulse shows at once; a batch that brings an older time later is a gap, one of the same time is known."""
        async with server.agent() as agent, server.live() as live:
            await subscribe(live, "host:host-1")
            now = now_us()
            await agent.send({"type": "pulse", "at": now, "metrics": [sample(9)]})
            await agent.batch(1, at=now - 1000, metrics=[sample(1)])
            await agent.batch(2, at=now, metrics=[sample(9)])
            await agent.batch(3, at=now + 1000, metrics=[sample(2)])
            first = await live.until("metrics")
            gap = await live.receive()
            second = await live.receive()
            await agent.acked(3)

        assert gap == {"type": "gap", "topic": "host:host-1", "dropped": 1}
        assert [first["samples"][0]["at"], second["samples"][0]["at"]] == [now, now + 1000]

    async def test_a_host_going_offline_is_told(self, server: RunningServer) -> None:
        """Watchers of a host hear that it left, and that it came back."""
        async with server.live() as live:
            async with server.agent():
                await subscribe(live, "host:host-1")
            assert (await live.until("host"))["host"]["online"] is False
            async with server.agent(containers=[container(0), container(5)]):
                back = await live.until("host")

        assert back["host"]["online"] is True
        assert [c["name"] for c in back["upserts"]] == ["web-0", "web-5"]

    async def test_topics_of_another_tenant_do_not_exist(self, server: RunningServer) -> None:
        """Ids of another organisation get the answer of ids that nobody has, and not one of their frames."""
        async with server.agent() as agent, server.live(org="org-b") as live:
            key = container_key(server)
            await agent.batch(1, logs=[line("secret", now_us())])
            await agent.acked(1)
            topics = ["host:host-1", f"container:{key}", f"logs:{key}", "host:none", "container:1", "logs:1"]
            await live.send({"type": "subscribe", "topics": [*topics, "fleet"]})
            answers = [await live.receive() for _ in topics]
            fleet = await live.until("snapshot")
            await agent.batch(2, metrics=[sample(5)], logs=[line("secret", now_us())])
            await agent.acked(2)
            await live.send({"type": "heartbeat", "at": 1})
            rest = []
            while (message := await live.receive())["type"] != "heartbeat":
                rest.append(message)

        assert {(a["type"], a["code"], a["message"]) for a in answers} == {("error", "not_found", "no such topic")}
        assert fleet["fleet"]["hosts_online"] == 0
        assert all(message.get("topic") == "fleet" for message in rest)

    @pytest.mark.parametrize(
        "topic", ["", "all", "*", "host", "host:", "logs:-1", "logs:x", "container:9" + "9" * 30, "logs:²"]
    )
    async def test_odd_topics_do_not_exist(self, server: RunningServer, topic: str) -> None:
        """A topic of no known form is not found; nothing means 'everything'."""
        async with server.live() as live:
            await live.send({"type": "subscribe", "topics": [topic]})
            assert (await live.until("error"))["about"]["topic"] == topic

    async def test_too_many_topics_are_refused(self, database: str) -> None:
        """Beyond max_subscriptions a topic is refused by name, and the others stay."""
        async with running_server(database, max_subscriptions=1) as server, server.agent(), server.live() as live:
            await live.send({"type": "subscribe", "topics": ["fleet", "host:host-1"]})
            error = await live.until("error")

        assert (error["code"], error["about"]["topic"]) == ("limit_exceeded", "host:host-1")

    async def test_unsubscribed_topics_fall_silent(self, server: RunningServer) -> None:
        """After unsubscribe nothing of the topic comes, and the hub forgets it."""
        async with server.agent() as agent, server.live() as live:
            await subscribe(live, "host:host-1")
            await live.send({"type": "unsubscribe", "topics": ["host:host-1"]})
            await live.send({"type": "heartbeat", "at": 1})
            await live.until("heartbeat")
            await agent.batch(1)
            await agent.acked(1)

            assert server.service.hub.topics == 0

    async def test_bad_requests_are_answered_and_the_third_closes(self, server: RunningServer) -> None:
        """Two unreadable requests get an error each; the third closes 4501."""
        async with server.live() as live:
            for frame in ("{", '{"type":"getattr"}', '{"type":"subscribe","topics":"all"}', "[]"):
                await live.send(frame)
            codes = [(await live.until("error"))["code"] for _ in range(4)]
            assert (await live.closed())[0] == 4501

        assert codes == ["bad_request", "unknown_type", "bad_request", "bad_request"]


class TestLogs:
    async def test_tail_and_live_meet_without_a_hole(self, server: RunningServer) -> None:
        """While lines keep coming, tail and live together hold each line once and in order."""
        stop = asyncio.Event()
        total = 0

        async def talk(agent: AgentClient) -> None:
            nonlocal total
            while not stop.is_set():
                total += 1
                await agent.batch(total, logs=[line(str(total), now_us())])
                await asyncio.sleep(0.002)

        async with server.agent() as agent:
            talking = asyncio.create_task(talk(agent))
            topic = f"logs:{container_key(server)}"
            for _ in range(5):
                async with server.live() as live:
                    seen = [
                        int(entry["text"]) for entry in (await subscribe(live, topic, tail=50))[topic].get("lines", [])
                    ]
                    while len(seen) < 120:
                        seen += [int(entry["text"]) for entry in (await live.until("logs"))["lines"]]
                assert seen == list(range(seen[0], seen[0] + len(seen)))
            stop.set()
            await talking
            await agent.acked(total)

    async def test_a_line_sent_again_is_not_shown_again(self, server: RunningServer) -> None:
        """A line that comes twice, equal or not, is shown once."""
        async with server.agent() as agent, server.live() as live:
            topic = f"logs:{container_key(server)}"
            await subscribe(live, topic)
            at = now_us()
            await agent.batch(1, logs=[line("one", at)])
            await agent.batch(2, logs=[line("one", at), line("other", at), line("two", at + 1)])
            first, second = await live.until("logs"), await live.until("logs")

        assert [entry["text"] for message in (first, second) for entry in message["lines"]] == ["one", "two"]

    async def test_resume_reads_again_from_a_position(self, server: RunningServer) -> None:
        """Lines that came during a pause are in the snapshot after it, from the line that was seen last."""
        async with server.agent() as agent, server.live() as live:
            topic = f"logs:{container_key(server)}"
            at = now_us()
            await agent.batch(1, logs=[line("one", at), line("two", at, 1)])
            await agent.acked(1)
            first = (await subscribe(live, topic, tail=1))[topic]
            await live.send({"type": "pause", "topics": [topic]})
            await live.send({"type": "heartbeat", "at": 1})
            await live.until("heartbeat")
            await agent.batch(2, logs=[line("three", at, 2), line("four", at + 1)])
            await agent.acked(2)
            await live.send({"type": "resume", "topics": [topic], "since": {"at": at, "line": 1}})
            again = await live.until("snapshot")
            await agent.batch(3, logs=[line("five", at + 2)])
            more = await live.until("logs")

        assert [entry["text"] for entry in first["lines"]] == ["two"]
        assert [entry["text"] for entry in again["lines"]] == ["three", "four"]
        assert [entry["text"] for entry in more["lines"]] == ["five"]

    async def test_a_database_away_is_told(self, database: str) -> None:
        """If the stored lines cannot be read the topic is refused as unavailable, and can be asked for again."""
        stuck = asyncio.Event()
        release = asyncio.Event()

        async def stall(name: str) -> None:
            if name == "before_begin" and not release.is_set():
                stuck.set()
                await release.wait()

        async with running_server(database, stall, lanes=1) as server, server.agent() as agent, server.live() as live:
            topic = f"logs:{container_key(server)}"
            await agent.batch(1, logs=[line("one", now_us())])
            await asyncio.wait_for(stuck.wait(), 20)
            await live.send({"type": "subscribe", "topics": [topic]})
            error = await live.until("error")
            release.set()
            await agent.acked(1)
            snapshot = (await subscribe(live, topic))[topic]

        assert (error["code"], error["about"]["topic"]) == ("unavailable", topic)
        assert [entry["text"] for entry in snapshot["lines"]] == ["one"]


class TestSlowSubscribers:
    async def test_who_does_not_read_is_closed_and_hurts_nobody(self, database: str) -> None:
        """A subscriber that stops reading is closed and freed; its neighbour misses nothing."""
        settings: dict[str, Any] = {"outbox_bytes": 64 * 1024, "outbox_seconds": 0.5}
        async with running_server(database, **settings) as server, server.agent() as agent:
            topic = f"logs:{container_key(server)}"
            async with server.live() as neighbour, server.live() as slow:
                await subscribe(neighbour, topic)
                await subscribe(slow, topic)
                slow.socket.transport.pause_reading()
                text = "x" * 10_000
                seq = lines = 0
                while len(server.service.live.subscribers) == 2:
                    seq += 1
                    at = now_us()
                    await agent.batch(seq, logs=[line(text, at, i) for i in range(50)])
                    await agent.acked(seq)
                    while lines < seq * 50:
                        lines += len((await neighbour.until("logs"))["lines"])
                    assert seq < 500, "the slow subscriber was never closed"
                slow.socket.transport.resume_reading()
            assert server.service.counters.live_lines_dropped > 0

        assert lines == seq * 50

    async def test_a_slow_reader_is_told_of_the_gap_and_reads_on(self, database: str) -> None:
        """Little waits in the kernel: soon lines are dropped, heartbeats still answered, and then exactly the gap comes."""
        settings: dict[str, Any] = {"outbox_bytes": 64 * 1024, "outbox_seconds": 60.0}
        async with (
            running_server(database, **settings) as server,
            server.agent() as agent,
            server.live(receive_buffer_bytes=4096) as slow,
        ):
            topic, counters = f"logs:{container_key(server)}", server.service.counters
            await subscribe(slow, topic)
            slow.socket.transport.pause_reading()
            seq = 0
            while not counters.live_lines_dropped:
                seq += 1
                await agent.batch(seq, logs=[line("x" * 1000, now_us(), i) for i in range(20)])
                await agent.acked(seq)
            assert seq * 20 * 1000 < 512 * 1024, "the kernel took what should have waited in the outbox"
            await slow.send({"type": "heartbeat", "at": 7})
            await agent.batch(seq + 1, logs=[line("y", now_us(), 0)])
            await agent.acked(seq + 1)
            slow.socket.transport.resume_reading()
            came = told = echoes = 0
            while came + told < seq * 20 + 1 or not echoes:
                message = await slow.receive()
                echoes += message["type"] == "heartbeat"
                came += len(message.get("lines", ()))
                told += message.get("dropped", 0)
            assert told == counters.live_lines_dropped

    async def test_metrics_of_a_slow_reader_are_conflated(self, database: str) -> None:
        """While a subscriber lags only the newest frame of a topic waits; when it reads on, that is what comes last."""
        async with running_server(database, outbox_seconds=30.0) as server:
            many = [container(i, name=f"{'n' * 200}-{i}") for i in range(200)]
            async with server.agent(containers=many) as agent, server.live() as live:
                await subscribe(live, "host:host-1")
                live.socket.transport.pause_reading()
                number = 0
                while not server.service.counters.live_metrics_conflated:
                    for _ in range(50):
                        number += 1
                        metrics = [sample(number, i) for i in range(200)]
                        await agent.send({"type": "pulse", "at": now_us(), "metrics": metrics})
                    await agent.send({"type": "heartbeat", "at": 1})
                    await agent.until("heartbeat")
                    assert number < 5000, "nothing was ever conflated"
                live.socket.transport.resume_reading()
                told = await live.until("gap")
                last = await live.until("metrics", lambda m: m["samples"][0]["rx"] == number)

        assert len(last["samples"]) == 200
        assert told == {
            "type": "gap", "topic": "host:host-1", "dropped": 200 * server.service.counters.live_metrics_conflated
        }  # fmt: skip


class TestOperations:
    async def test_probes_answer(self, server: RunningServer) -> None:
        """Alive, ready, metrics and the protocol are there without a token."""
        async with server.agent() as agent:
            await agent.batch(1)
            await agent.acked(1)
            await eventually(lambda: server.service.counters.flushes > 0)
            metrics = (await server.get("/metrics")).text

        assert (await server.get("/livez")).status_code == 200
        assert (await server.get("/readyz")).json() == {"ready": True, "reasons": []}
        assert (await server.get("/asyncapi.json")).json()["asyncapi"] == "3.0.0"
        assert "seatrial_metric_rows_stored_total 1.0" in metrics
        assert f'seatrial_build_info{{python="{platform.python_version()}",version="{VERSION}"}} 1.0' in metrics
        assert 'seatrial_flush_seconds_bucket{le="+Inf"} 1.0' in metrics

    async def test_not_ready_while_the_database_is_away(
        self, server: RunningServer, postgres_dsn: str, database: str
    ) -> None:
        """/readyz tells 503 and why, and goes back by itself."""
        name = database.rsplit("/", 1)[1]
        admin = await asyncpg.connect(postgres_dsn)
        try:
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            answer = await server.get("/readyz")
            assert (answer.status_code, answer.json()["ready"]) == (503, False)
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        finally:
            await admin.close()

        async def ready() -> bool:
            return (await server.get("/readyz")).status_code == 200

        await eventually(ready, "ready again")

    async def test_no_secret_reaches_a_log(self, server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
        """Tokens and tickets in URLs and headers leave no trace in any log record."""
        from server.logs import redact

        caplog.set_level("DEBUG")
        caplog.set_level("DEBUG", logger="uvicorn.error")  # another test's server may have silenced it
        token = server.user_token()
        ticket = (await server.post("/api/live-tickets", token)).json()["ticket"]
        async with server.live(query=f"ticket={ticket}") as live:
            await subscribe(live, "fleet")
        async with server.live(query=f"token={token}x") as live:
            await live.closed()
        ours = [
            redact(r.getMessage()) for r in caplog.records if not r.name.startswith(("httpx", "httpcore", "websockets"))
        ]

        assert ours
        assert not [text for text in ours if ticket in text or token in text]

    async def test_hosts_are_paged_by_name(self, server: RunningServer) -> None:
        """A page ends with the name to go on after; the pages together hold each host once."""
        for i in range(3):
            async with server.agent(host=f"host-{i}"):
                pass
        await server.service.directory.write()
        token = server.user_token()
        first = (await server.get("/api/hosts?limit=2", token)).json()
        second = (await server.get(f"/api/hosts?limit=2&after={first['next']}", token)).json()

        assert [h["id"] for h in first["hosts"] + second["hosts"]] == ["host-0", "host-1", "host-2"]
        assert second["next"] is None
        assert json.loads((await server.get("/api/hosts?limit=0", token)).text)["detail"]
