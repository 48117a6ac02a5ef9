"""The agents' socket, spoken to by an independent client."""

import asyncio
import json
import uuid

import asyncpg
import pytest
import websockets

from server.auth.principal import User
from server.windows import FIRST_BATCHES
from tests.support.server import (
    AgentClient,
    RunningServer,
    container,
    docker_id,
    eventually,
    hello,
    line,
    now_us,
    running_server,
    sample,
)

EPOCH = "33333333-3333-4333-8333-333333333333"
USER = User(subject="somebody", org="org-a", role="viewer", expires_at=4e9)


async def rows(dsn: str, table: str = "container_metric") -> list[asyncpg.Record]:
    """What is stored, by key."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")
    finally:
        await connection.close()


async def refusal(server: RunningServer, **connect: object) -> tuple[int, str]:
    """Status and error of an upgrade that is refused."""
    options = {
        "additional_headers": {"Authorization": f"Bearer {server.agent_token()}"}, "compression": None,
        "subprotocols": [websockets.Subprotocol("seatrial.agent.v1")],
    } | connect  # fmt: skip
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with websockets.connect(f"{server.ws}/ws/agent", **options):  # type: ignore[arg-type]
            pass
    response = caught.value.response
    return response.status_code, json.loads(response.body or b"{}")["error"]


class TestUpgrade:
    async def test_refusals_say_why(self, server: RunningServer) -> None:
        """Each refused upgrade has its status and a reason in its body."""
        assert await refusal(server, additional_headers={}) == (401, "missing_token")
        for token in ("rubbish", server.user_token(), server.agent_token()[:-4] + "AAAA"):
            answer = await refusal(server, additional_headers={"Authorization": f"Bearer {token}"})
            assert answer == (401, "invalid_token")
        assert await refusal(server, subprotocols=None) == (400, "subprotocol")
        assert await refusal(server, origin=server.http) == (403, "origin")

    async def test_a_full_server_refuses(self, database: str) -> None:
        """Beyond max_agents the answer is 503, hellos outstanding counted; who takes its own connection over gets in."""
        async with running_server(database, max_agents=2) as server, server.agent(host="a", epoch=EPOCH):
            async with server.agent(host="b", greet=False):
                headers = {"Authorization": f"Bearer {server.agent_token('c')}"}
                assert await refusal(server, additional_headers=headers) == (503, "agents")
                async with server.agent(host="a", epoch=EPOCH, connection=2):
                    pass
            await eventually(lambda: not server.server.server_state.connections, "the sockets freed")
            async with server.agent(host="c"), server.agent(host="d"):
                pass

    async def test_a_storm_is_paced(self, database: str) -> None:
        """Those above the rate are refused with 503, each told when to come back; who waits that long gets in."""
        async with running_server(database, reconnects_per_second=1) as server:
            async with server.agent(host="first"):
                with pytest.raises(websockets.InvalidStatus) as raised:
                    async with server.agent(host="second"):
                        pass
                response = raised.value.response
                assert (response.status_code, json.loads(response.body or b"")["error"]) == (503, "pace")
                await asyncio.sleep(int(response.headers["Retry-After"]))  # as an agent does
                async with server.agent(host="second"):
                    pass

            assert server.service.counters.handshakes_refused["agent", "pace"] == 1

    async def test_a_full_server_refuses_those_that_dial_together(self, database: str) -> None:
        """Of many live sockets that dial at once no more get in than there is room for."""
        async with running_server(database, max_subscribers=3) as server:
            tickets = [await server.service.tickets.issue(USER, server.http) for _ in range(12)]

            async def dial(ticket: str) -> bool:
                try:
                    async with server.live(query=f"ticket={ticket}"):
                        await opened.wait()
                except websockets.InvalidStatus as error:
                    refused.append(error.response.status_code)
                    if len(refused) == 9:
                        opened.set()
                    return False
                return True

            opened, refused = asyncio.Event(), list[int]()
            async with asyncio.timeout(20):
                got_in = await asyncio.gather(*map(dial, tickets))

        assert (sum(got_in), refused) == (3, [503] * 9)

    async def test_deflate_is_not_negotiated(self, server: RunningServer) -> None:
        """An offer of permessage-deflate is not taken."""
        headers = {"Authorization": f"Bearer {server.agent_token()}"}
        async with websockets.connect(
            f"{server.ws}/ws/agent", additional_headers=headers, compression="deflate",
            subprotocols=[websockets.Subprotocol("seatrial.agent.v1")],
        ) as socket:  # fmt: skip
            assert socket.protocol.extensions == []
            assert socket.subprotocol == "seatrial.agent.v1"


class TestHello:
    async def test_no_hello_in_time_closes(self, database: str) -> None:
        """An agent that stays silent after the upgrade is closed with 4002."""
        async with running_server(database, hello_timeout_seconds=0.2) as server, server.agent(greet=False) as agent:
            assert (await agent.closed())[0] == 4002

    @pytest.mark.parametrize(
        ("frame", "error", "code"),
        [
            ({"type": "heartbeat", "at": 1}, "hello_expected", 4501),
            (hello(protocol=2), "unsupported_protocol", 4501),
            (hello(oldest=5, next_seq=4), "bad_request", 4501),
            (hello(epoch="not-a-uuid"), "bad_request", 4501),
            ({"type": "hello"}, "bad_request", 4501),
            ("{", "bad_request", 4501),
        ],
    )
    async def test_a_bad_first_message_is_fatal(
        self, server: RunningServer, frame: dict[str, object] | str, error: str, code: int
    ) -> None:
        """What is no good hello is answered with a fatal error and 4501."""
        async with server.agent(greet=False) as agent:
            await agent.send(frame)
            answer = await agent.receive()

            assert (answer["type"], answer["code"], answer["fatal"]) == ("error", error, True)
            assert (await agent.closed())[0] == code

    async def test_a_bad_container_costs_only_itself(self, server: RunningServer) -> None:
        """A container that breaks a rule is named; the others are taken."""
        async with server.agent(containers=[container(0), container(1, id="../../version")]) as agent:
            error = await agent.until("error")
            await agent.batch(1, metrics=[sample(1, ref=0), sample(1, ref=1)])
            ack = await agent.acked(1)

        assert error["code"] == "invalid_container"
        assert "../../version" in error["message"]
        assert [(row["row"], row["reason"]) for row in ack["rejected"]] == [("metrics[1]", "unknown_ref")]

    async def test_welcome_tells_clock_window_and_limits(self, server: RunningServer) -> None:
        """The welcome holds what an agent must know before it sends."""
        before = now_us()
        async with server.agent() as agent:
            welcome = agent.welcome

        assert welcome["acked_seq"] == 0
        assert welcome["clock"]["earliest"] < before < welcome["clock"]["latest"]
        assert welcome["window"]["batches"] == FIRST_BATCHES
        assert 4096 <= welcome["window"]["bytes"] <= 1024 * 1024
        assert welcome["limits"]["frame_bytes"] == 1024 * 1024


class TestFrames:
    async def test_binary_frames_are_refused(self, server: RunningServer) -> None:
        """A binary frame closes with 1003."""
        async with server.agent() as agent:
            await agent.send(b"\x00\x01")
            assert (await agent.closed())[0] == 1003

    async def test_unreadable_frames_are_answered_and_the_third_closes(self, server: RunningServer) -> None:
        """Two bad frames get an error each and the connection lives; the third within a minute closes 4501."""
        async with server.agent() as agent:
            await agent.send("[" * 100_000)
            assert (await agent.receive())["code"] == "bad_request"
            await agent.send('{"at":1}')
            assert (await agent.receive())["code"] == "bad_request"
            await agent.batch(1)
            await agent.acked(1)
            await agent.send("1" * 5000)
            assert (await agent.closed())[0] == 4501

    async def test_a_frame_over_the_limit_closes(self, database: str) -> None:
        """A frame over frame_bytes closes 1009 before it is read."""
        async with running_server(database, frame_bytes=4096) as server, server.agent() as agent:
            await agent.send("x" * 5000)
            assert (await agent.closed())[0] == 1009

    async def test_a_second_hello_is_refused(self, server: RunningServer) -> None:
        """Only the first message may be hello."""
        async with server.agent() as agent:
            await agent.send(hello())
            assert (await agent.until("error"))["code"] == "hello_expected"
            assert (await agent.closed())[0] == 4501

    async def test_one_bad_row_does_not_poison_its_batch(self, server: RunningServer, database: str) -> None:
        """NaN, out-of-range, unknown ref and an unreadable line are rejected by name; the rest is stored."""
        async with server.agent() as agent:
            at = now_us()
            raw = json.dumps(
                {
                    "type": "batch", "seq": 1, "oldest": 1, "at": at,
                    "metrics": [
                        sample(1), {"ref": 0, "cpu": "NAN", "at": at + 1}, {"ref": 0, "mem": 2**63, "at": at + 2},
                        {"ref": 0, "mem": -1, "at": at + 3}, {"ref": 0, "cpu": 1e9, "at": at + 4}, sample(2, ref=7),
                        sample(3, at=at - 86_400_000_000), sample(4, at=at + 3_600_000_000), sample(5, at=at),
                        sample(6, at=at + 9),
                    ],
                    "logs": [
                        line("a\x00b", at), line("\ud800", at, 1),
                        {"ref": 0, "at": at, "line": 2, "stream": "x", "text": ""},
                    ],
                }
            ).replace('"NAN"', "NaN")  # fmt: skip
            await agent.send(raw)
            ack = await agent.acked(1)

        reasons = {row["row"]: row["reason"] for row in ack["rejected"]}
        assert reasons == {
            "metrics[1]": "invalid_row", "metrics[2]": "invalid_row", "metrics[3]": "invalid_row",
            "metrics[4]": "invalid_row", "metrics[5]": "unknown_ref", "metrics[6]": "too_old",
            "metrics[7]": "in_future", "metrics[8]": "not_rising", "logs[2]": "invalid_row",
        }  # fmt: skip
        assert len(await rows(database)) == 2
        assert [row["text"] for row in await rows(database, "container_log")] == ["a\ufffdb", "\ufffd"]

    async def test_long_lines_are_cut_and_marked(self, database: str) -> None:
        """A line over log_text_bytes is stored cut at a character boundary, marked truncated."""
        async with running_server(database, log_text_bytes=64) as server, server.agent() as agent:
            at = now_us()
            await agent.batch(1, logs=[line("é" * 40, at), line("x" * 64, at, 1)])
            await agent.acked(1)
            stored = await rows(database, "container_log")

        assert [(row["text"], row["truncated"]) for row in stored] == [("é" * 32, True), ("x" * 64, False)]

    async def test_hostile_text_is_stored_as_it_is(self, server: RunningServer, database: str) -> None:
        """SQL, markup and escape sequences are data."""
        hostile = [
            "'; DROP TABLE container_log; --",
            "<script>alert(1)</script>",
            "\x1b]8;;javascript:x\x07",
            "=cmd|' /C'!A0",
        ]
        async with server.agent(containers=[container(name='x\r\n{"level":"info"}\'; --')]) as agent:
            at = now_us()
            await agent.batch(1, logs=[line(text, at, i) for i, text in enumerate(hostile)])
            await agent.acked(1)

        assert [row["text"] for row in await rows(database, "container_log")] == hostile


class TestDelivery:
    async def test_an_acked_batch_is_stored(self, server: RunningServer, database: str) -> None:
        """When the ack arrives the rows are there, with the values sent."""
        async with server.agent() as agent:
            at = await agent.batch(1, metrics=[sample(7), sample(8, at=now_us() + 1000, cpu=None, rx=None)], logs=[])
            await agent.acked(1)
            stored = await rows(database)

        assert [(r["cpu_percent"], r["memory_bytes"], r["network_rx_bytes"]) for r in stored] == [
            (3.5, 7000, 7),
            (None, 8000, None),
        ]
        assert round(stored[0]["timestamp"].timestamp() * 1e6) == at

    async def test_an_undeclared_gap_closes(self, server: RunningServer) -> None:
        """Skipping a seq without declaring it closes 4003."""
        async with server.agent() as agent:
            await agent.batch(1)
            await agent.batch(3)
            assert (await agent.until("error"))["code"] == "seq_gap"
            assert (await agent.closed())[0] == 4003

    async def test_a_declared_gap_is_taken(self, server: RunningServer) -> None:
        """Raising oldest declares the loss; the ack passes over it and it is counted."""
        async with server.agent() as agent:
            await agent.batch(1)
            await agent.batch(5, oldest=5)
            await agent.acked(5)

        assert server.service.counters.batches_declared_dropped == 3

    async def test_the_window_is_enforced(self, database: str) -> None:
        """A batch past the window closes 4013."""
        release = asyncio.Event()

        async def stall(seam: str) -> None:
            if seam == "before_begin":
                await release.wait()

        async with running_server(database, stall, window_batches=2, lanes=1) as server, server.agent() as agent:
            for seq in (1, 2, 3):
                await agent.batch(seq)
            assert (await agent.until("error"))["code"] == "window_exceeded"
            assert (await agent.closed())[0] == 4013
            release.set()

    async def test_rejections_beyond_twenty_are_counted(self, server: RunningServer) -> None:
        """An ack names 20 rejected rows and counts the others per reason."""
        async with server.agent() as agent:
            await agent.batch(1, metrics=[sample(1, ref=99) for _ in range(25)])
            ack = await agent.acked(1)

        assert len(ack["rejected"]) == 20
        assert ack["rejected_more"] == {"unknown_ref": 5}

    async def test_rejections_are_told_again_after_a_reconnect(self, server: RunningServer) -> None:
        """The socket may have broken before the agent read them: the new one names them at once, without a batch."""
        epoch = str(uuid.uuid4())
        async with server.agent(epoch=epoch) as agent:
            await agent.batch(1, metrics=[sample(1, ref=99)])
            first = await agent.acked(1)
        async with server.agent(epoch=epoch, connection=2, next_seq=2) as agent:
            again = await agent.acked(1)

        assert [row["reason"] for row in first["rejected"]] == ["unknown_ref"]
        assert again["rejected"] == first["rejected"]

    async def test_a_batch_sent_again_is_stored_once(self, server: RunningServer, database: str) -> None:
        """After a reconnect the same batch is recognised, acknowledged, and stored once."""
        epoch = str(uuid.uuid4())
        async with server.agent(epoch=epoch) as agent:
            at = await agent.batch(1)
            await agent.acked(1)
        async with server.agent(epoch=epoch, connection=2, next_seq=2) as agent:
            assert agent.welcome["acked_seq"] == 1
            await agent.batch(1, at=at)
            await agent.acked(1)

        assert len(await rows(database)) == 1
        assert server.service.counters.batches_replayed == 1

    async def test_a_restarted_server_recognises_what_it_stored(self, database: str) -> None:
        """A new process that lost the newest progress merges what is resent: equal rows are replays, others conflicts."""
        epoch = str(uuid.uuid4())
        async with running_server(database) as server, server.agent(epoch=epoch) as agent:
            first = await agent.batch(1)
            second = await agent.batch(2)
            await agent.acked(2)
        connection = await asyncpg.connect(database)
        await connection.execute("UPDATE host SET acked_seq = 0")
        await connection.close()
        async with running_server(database) as server:
            async with server.agent(epoch=epoch, connection=2, next_seq=3) as agent:
                assert agent.welcome["acked_seq"] == 0
                await agent.batch(1, at=first)
                await agent.batch(2, at=second, metrics=[sample(99)])
                await agent.batch(3)
                ack = await agent.acked(3)
            counters = server.service.counters

            assert counters.rows_replayed == 1
            assert [(r["seq"], r["row"], r["reason"], r["ref"]) for r in ack["rejected"]] == [
                (2, "metrics[0]", "conflicting_duplicate", 0)
            ]
        assert [r["memory_bytes"] for r in await rows(database)] == [1000, 2000, 3000]


class TestTakeover:
    async def test_a_newer_connection_takes_over(self, server: RunningServer, database: str) -> None:
        """The old socket is closed 4509, nothing it sends counts any more, and nothing is lost."""
        epoch = str(uuid.uuid4())
        async with server.agent(epoch=epoch) as old:
            await old.batch(1)
            async with server.agent(epoch=epoch, connection=2, next_seq=2) as new:
                await new.batch(2)
                await new.acked(2)
                assert (await old.closed())[0] == 4509

        assert len(await rows(database)) == 2
        assert server.service.counters.takeovers == 1

    async def test_an_older_connection_is_refused(self, server: RunningServer) -> None:
        """A connection number that is not higher does not win."""
        epoch = str(uuid.uuid4())
        async with server.agent(epoch=epoch, connection=5) as current:
            async with server.agent(greet=False) as late:
                await late.send(hello(epoch=epoch, connection=4))
                assert (await late.closed())[0] == 4509
            await current.batch(1)
            await current.acked(1)

    async def test_another_machine_with_the_same_token_is_refused(self, server: RunningServer) -> None:
        """A second machine gets 4510, the first is not disturbed, and the host carries an alert."""
        async with server.agent() as first:
            async with server.agent(greet=False) as second:
                await second.send(hello(machine_id="machine-2"))
                error = await second.until("error")
                assert (await second.closed())[0] == 4510
            await first.batch(1)
            await first.acked(1)
            hosts = (await server.get("/api/hosts", server.user_token())).json()["hosts"]

        assert error["code"] == "duplicate_identity"
        assert [host.get("alert") for host in hosts] in ([], ["duplicate_identity"])
        assert server.service.registry.records["org-a", "host-1"].alert == "duplicate_identity"


class TestConnection:
    async def test_heartbeats_are_echoed_and_give_the_skew(self, server: RunningServer) -> None:
        """The echo holds the agent's own time; a clock that is an hour ahead shows as skew."""
        async with server.agent() as agent:
            ahead = now_us() + 3_600_000_000
            await agent.send({"type": "heartbeat", "at": ahead})
            echo = await agent.until("heartbeat")

        assert echo["at"] == ahead
        skew = server.service.registry.records["org-a", "host-1"].skew_ms
        assert skew is not None
        assert skew == pytest.approx(3_600_000, rel=0.01)

    async def test_results_nobody_waits_for_are_acknowledged(self, server: RunningServer) -> None:
        """An agent may stop repeating a result that means nothing here."""
        report = {"action_id": "a-1", "outcome": "failed", "finished_at": 1}
        async with server.agent(unacknowledged_results=[report]) as agent:
            assert (await agent.until("result_ack"))["action_id"] == "a-1"
            await agent.send({"type": "action_result"} | report | {"action_id": "a-2"})
            assert (await agent.until("result_ack"))["action_id"] == "a-2"

    async def test_bye_takes_the_host_offline_at_once(self, database: str) -> None:
        """After bye nobody waits for the agent to come back."""
        async with running_server(database, offline_after_seconds=3600) as server, server.agent() as agent:
            record = server.service.registry.records["org-a", "host-1"]
            assert record.online
            await agent.send({"type": "bye", "reason": "upgrade"})
            assert (await agent.closed())[0] == 1000
            await eventually(lambda: not record.online, "offline")

    async def test_a_silent_agent_is_closed(self, database: str) -> None:
        """No frame for three heartbeat intervals closes 4004."""
        async with running_server(database, heartbeat_seconds=1) as server, server.agent() as agent:
            assert (await agent.closed())[0] == 4004

    async def test_a_socket_does_not_outlive_its_token(self, server: RunningServer) -> None:
        """The agent is warned, and closed 4001 when the token expires."""
        token = server.agent_token(seconds=2)
        async with server.agent(token=token) as agent:
            await agent.until("token_expiring")
            assert (await agent.closed())[0] == 4001

    async def test_inventory_in_parts_removes_what_it_lacks(self, server: RunningServer) -> None:
        """After the last part of a full list, containers that it does not hold are gone."""
        async with server.agent(containers=[container(0), container(1)]) as agent:
            await agent.send({"type": "inventory", "at": 1, "snapshot": "part", "upserts": [container(0)]})
            await agent.send({"type": "inventory", "at": 2, "snapshot": "last", "upserts": [container(2)]})
            await agent.batch(1, metrics=[sample(1, ref=2)])
            await agent.acked(1)
        record = server.service.registry.records["org-a", "host-1"]

        states = {c.info.id: c.info.state for c in record.by_id.values()}
        assert states == {docker_id(0): "running", docker_id(1): "removed", docker_id(2): "running"}

    async def test_hosts_and_containers_survive_a_restart(self, database: str) -> None:
        """What the directory wrote is what the API tells after a restart."""
        async with running_server(database) as server, server.agent(containers=[container(0), container(1)]) as agent:
            await agent.batch(1)
            await agent.acked(1)
        async with running_server(database) as server:
            hosts = (await server.get("/api/hosts", server.user_token())).json()["hosts"]
            found = (await server.get("/api/hosts/host-1/containers", server.user_token())).json()["containers"]
            foreign = await server.get("/api/hosts/host-1/containers", server.user_token(org="org-b"))

        assert [(host["id"], host["online"]) for host in hosts] == [("host-1", False)]
        assert [c["name"] for c in found] == ["web-0", "web-1"]
        assert foreign.status_code == 404


class TestDrain:
    async def test_a_stop_flushes_acks_and_says_1012(self, database: str) -> None:
        """Everything received before the stop is stored and acknowledged before the socket closes with 1012."""
        async with running_server(database, flush_seconds=10.0, lanes=1) as server, server.agent() as agent:
            await agent.batch(1)
            lane = server.service.lanes[0]
            await eventually(lambda: lane.pending == 1, "the batch received")
            server.stop()
            drain = await agent.until("drain")
            ack = await agent.acked(1)
            code, _ = await agent.closed()
            await server.done

        assert drain["reconnect_within_seconds"] >= 5
        assert ack["seq"] == 1
        assert code == 1012
        assert len(await rows(database)) == 1


class TestSeams:
    @pytest.mark.parametrize("seam_name", ["before_commit", "after_commit"])
    async def test_a_cut_around_commit_stores_once(self, database: str, seam_name: str) -> None:
        """A connection cut before COMMIT, or between COMMIT and the ack: after the resend the row is there once."""
        cut = asyncio.Event()
        held: list[AgentClient] = []

        async def sever(name: str) -> None:
            if name == seam_name and not cut.is_set():
                cut.set()
                held[0].socket.transport.abort()

        epoch = str(uuid.uuid4())
        async with running_server(database, sever, lanes=1) as server:
            async with server.agent(epoch=epoch) as agent:
                held.append(agent)
                at = await agent.batch(1)
                await asyncio.wait_for(cut.wait(), 20)
            async with server.agent(epoch=epoch, connection=2, next_seq=2) as agent:
                if agent.welcome["acked_seq"] < 1:
                    await agent.batch(1, at=at)
                await agent.batch(2)
                await agent.acked(2)

        assert len(await rows(database)) == 2


class TestUnreadableBatches:
    async def test_those_behind_it_are_taken(self, server: RunningServer, database: str) -> None:
        """A batch that cannot be read costs itself only: it is named, and the next one on its way is stored."""
        async with server.agent() as agent:
            await agent.send({"type": "batch", "seq": 1, "oldest": 1, "at": "noon", "metrics": []})
            await agent.batch(2)
            error = await agent.until("error")
            ack = await agent.acked(2)

        assert (error["code"], error["about"]["seq"], error["fatal"]) == ("bad_request", 1, False)
        assert [(row["seq"], row["row"], row["reason"]) for row in ack["rejected"]] == [(1, "batch", "invalid_row")]
        assert len(await rows(database)) == 1

    async def test_unknown_types_never_lock_an_agent_out(self, server: RunningServer) -> None:
        """A message type of a later version is answered, however often, and the connection lives."""
        async with server.agent() as agent:
            for _ in range(5):
                await agent.send({"type": "from_the_future"})
                assert (await agent.until("error"))["code"] == "unknown_type"
            await agent.batch(1)
            await agent.acked(1)
