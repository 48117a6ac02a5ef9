"""Enrolment: invited once, exchanged once, renewed, revoked, and audited."""

import asyncio
import shlex
import time
from typing import Any

import asyncpg
import pytest
import websockets

from tests.support.access import admin, audit, sql
from tests.support.server import RunningServer, eventually, running_server


async def invite(server: RunningServer, host: str = "host-1", **fields: Any) -> dict[str, Any]:
    """An Admin's invitation of a host."""
    answer = await admin(server, "POST", "/api/hosts", {"host": host} | fields)
    assert answer.status_code == 201, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def exchange(server: RunningServer, token: str) -> tuple[int, dict[str, Any]]:
    """An agent's attempt to get a token for its invitation."""
    answer = await server.call("POST", "/api/agents/enroll", json={"token": token})
    return answer.status_code, answer.json()


async def enrol(server: RunningServer, host: str = "host-1") -> str:
    """A host's token, by an invitation and its exchange."""
    status, shown = await exchange(server, (await invite(server, host))["enrolment_token"])
    assert status == 201, shown
    token: str = shown["token"]
    return token


async def refused(server: RunningServer, token: str) -> tuple[int, str]:
    """How an agent is refused at its upgrade."""
    with pytest.raises(websockets.InvalidStatus) as caught:
        async with server.agent(token=token):
            pass
    return caught.value.response.status_code, caught.value.response.body.decode().split('"')[3]


class TestEnrolment:
    """From the Admin's request to the agent's first batch."""

    async def test_the_way_of_a_new_host(self, server: RunningServer) -> None:
        """An invited host shows as never seen; its agent changes the invitation for a token, and is that host."""
        before = time.time()
        invitation = await invite(server, "web-7", reason="new node")
        hosts = (await server.get("/api/hosts", server.user_token())).json()["hosts"]
        status, credentials = await exchange(server, invitation["enrolment_token"])
        async with server.agent(token=credentials["token"]) as agent:
            await agent.batch(1)
            await agent.acked(1)

        assert [(h["id"], h["online"], h["last_seen"]) for h in hosts] == [("web-7", False, 0)]
        assert len(invitation["enrolment_token"]) >= 43  # 256 bits
        assert before + 3500 < invitation["expires_at"] / 1e6 < time.time() + 3700
        assert (status, credentials["host"], credentials["org"]) == (201, "web-7", "org-a")
        assert credentials["expires_at"] / 1e6 == server.service.tokens.agent(credentials["token"]).expires_at
        assert server.service.registry.records["org-a", "web-7"].online
        assert await audit(server) == [("ada", "host.enrol", "host:web-7", "done", "")]

    async def test_a_restart_knows_the_invited(self, database: str) -> None:
        """Neither the invitation nor the host that was never seen is lost with the process."""
        async with running_server(database) as server:
            token = (await invite(server))["enrolment_token"]
        async with running_server(database) as server:
            hosts = (await server.get("/api/hosts", server.user_token())).json()["hosts"]
            status, credentials = await exchange(server, token)
            async with server.agent(token=credentials["token"]) as agent:
                assert agent.welcome["acked_seq"] == 0

        assert [(h["id"], h["last_seen"], h["containers"]) for h in hosts] == [("host-1", 0, 0)]
        assert status == 201

    async def test_retention_waits_for_the_invited(self, server: RunningServer, database: str) -> None:
        """A host that was invited and never seen is not removed as if it had been away since 1970, but in its time."""
        await invite(server)
        await server.service.retention.prune()
        kept = (await server.get("/api/hosts", server.user_token())).json()["hosts"]
        await sql(database, "UPDATE host SET first_seen = to_timestamp(1)")
        await sql(database, "UPDATE enrolment SET expires_at = to_timestamp(2)")
        await server.service.retention.prune()
        gone = (await server.get("/api/hosts", server.user_token())).json()["hosts"]

        assert [len(kept), len(gone)] == [1, 0]

    async def test_an_invitation_is_good_once(self, server: RunningServer, database: str) -> None:
        """Of 100 exchanges at once one wins; the token is nowhere in the database."""
        token = (await invite(server))["enrolment_token"]
        stored = await sql(database, "SELECT enrolment::text FROM enrolment")
        answers = await asyncio.gather(*(exchange(server, token) for _ in range(100)))

        assert sorted(status for status, _ in answers) == [201] + [401] * 99
        assert {shown["title"] for status, shown in answers if status == 401} == {"invalid_enrolment_token"}
        assert token not in stored[0][0]
        assert await sql(database, "SELECT FROM enrolment") == []

    async def test_expired_replaced_and_made_up_invitations(self, server: RunningServer, database: str) -> None:
        """An invitation ends with its time, with a newer one of its host, and what is none gets the same answer."""
        expired = (await invite(server, "a", expires_in_seconds=60))["enrolment_token"]
        await sql(database, "UPDATE enrolment SET expires_at = clock_timestamp()")
        replaced = (await invite(server, "b"))["enrolment_token"]
        newer = (await invite(server, "b"))["enrolment_token"]
        other = (await invite(server, "c"))["enrolment_token"]
        answers = [await exchange(server, token) for token in (expired, replaced, "x", "\x00", "é" * 200)]

        assert {(status, shown["title"]) for status, shown in answers} == {(401, "invalid_enrolment_token")}
        assert len({shown["detail"] for _, shown in answers}) == 1
        assert [(await exchange(server, token))[0] for token in (newer, other)] == [201, 201]

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "host"),
            ({"host": "../x"}, "host"),
            ({"host": "a\nb"}, "host"),
            ({"host": "a\n"}, "host"),
            ({"host": "x" * 129}, "host"),
            ({"host": 5}, "host"),
            ({"host": "a", "expires_in_seconds": 1}, "expires_in_seconds"),
            ({"host": "a", "expires_in_seconds": 10**9}, "expires_in_seconds"),
            ({"host": "a", "org": "org-b"}, "org"),
            ({"host": "a", "reason": "x" * 501}, "reason"),
        ],
    )
    async def test_bad_requests_name_the_field(
        self, server: RunningServer, body: dict[str, object], field: str
    ) -> None:
        """What is missing, wrong or unknown is named, and nothing is done."""
        answer = await admin(server, "POST", "/api/hosts", body)

        assert answer.status_code == 422
        assert field in answer.text
        assert server.service.registry.records == {}

    @pytest.mark.parametrize("role", ["viewer", "operator"])
    async def test_other_roles_are_denied_and_audited(self, server: RunningServer, role: str) -> None:
        """Who is no Admin gets 403 forbidden and one audit row, for inviting and for revoking; nothing happened."""
        async with server.agent() as agent:
            answers = [
                await admin(server, "POST", "/api/hosts", {"host": "web-7"}, role=role),
                await admin(server, "POST", "/api/hosts/host-1/revoke", {"reason": "x"}, role=role),
            ]
            await agent.batch(1)
            await agent.acked(1)

        assert [(a.status_code, a.json()["title"]) for a in answers] == [(403, "forbidden")] * 2
        assert ("org-a", "web-7") not in server.service.registry.records
        assert await audit(server) == [
            ("ada", "host.enrol", "host:web-7", "denied", "forbidden"),
            ("ada", "host.revoke", "host:host-1", "denied", "forbidden"),
        ]

    async def test_tenants_do_not_meet(self, server: RunningServer) -> None:
        """The same host name in two organisations is two hosts; one's Admin cannot revoke the other's."""
        token = await enrol(server, "shared")
        other = await admin(server, "POST", "/api/hosts/shared/revoke", {"reason": "x"}, org="org-b")
        none = await admin(server, "POST", "/api/hosts/nowhere/revoke", {"reason": "x"}, org="org-b")
        async with server.agent(token=token) as agent:
            assert agent.welcome

        assert [(a.status_code, a.json()["title"]) for a in (other, none)] == [(404, "not_found")] * 2
        assert other.json()["detail"].replace("shared", "nowhere") == none.json()["detail"]
        assert await audit(server, "org-b") == []


class TestInstallCommand:
    """The line that an Admin pastes into a host's shell."""

    async def test_it_holds_the_public_address(self, database: str) -> None:
        """With public_url set, neither Host nor X-Forwarded-* changes what the agent will dial."""
        spoof = {"Host": "evil.example", "X_Forwarded_Host": "evil.example", "X_Forwarded_Proto": "ftp"}
        async with running_server(
            database, public_url="https://seatrial.example:8443", agent_image="acme/a:1"
        ) as server:
            answer = await server.call(
                "POST", "/api/hosts", server.user_token(role="owner"), json={"host": "a"}, **spoof
            )
        shown = answer.json()
        words = shlex.split(shown["install_command"])

        assert words[:2] == ["docker", "run"]
        assert words[-1] == "acme/a:1"
        assert "SEATRIAL_URL=https://seatrial.example:8443" in words
        assert f"SEATRIAL_ENROLMENT_TOKEN={shown['enrolment_token']}" in words

    async def test_without_one_it_holds_what_was_dialled(self, server: RunningServer) -> None:
        """In development the address is the one that the request came to."""
        words = shlex.split((await invite(server))["install_command"])

        assert f"SEATRIAL_URL={server.http}" in words

    @pytest.mark.parametrize("host", ["x/abc?", "a b", "a;rm", "$(id)", "a@b", "[::1", "a:b"])
    async def test_an_odd_host_header_is_refused(self, server: RunningServer, host: str) -> None:
        """Row 8: a Host that is no host[:port] never gets into the command; nothing is done."""
        answer = await server.call("POST", "/api/hosts", server.user_token(role="admin"), json={"host": "a"}, Host=host)

        assert answer.status_code == 400
        assert server.service.registry.records == {}


class TestRenewal:
    """A new token for the old one."""

    async def test_an_agent_renews_itself(self, server: RunningServer) -> None:
        """The new token is the same host's, with another id and a full life; the old one stays good until its end."""
        old = server.agent_token(seconds=60)
        answer = await server.call("POST", "/api/agents/renew", old)
        tokens = server.service.tokens
        new = tokens.agent(answer.json()["token"])

        assert answer.status_code == 201
        assert (new.host, new.org) == ("host-1", "org-a")
        assert new.token_id != tokens.agent(old).token_id
        assert new.expires_at - time.time() > 364 * 86_400
        async with server.agent(token=old):
            pass

    async def test_only_agents_renew(self, server: RunningServer) -> None:
        """No token, a user's, an expired one or an enrolment token is refused."""
        tokens = [None, server.user_token(role="owner"), (await invite(server))["enrolment_token"]]
        answers = [await server.call("POST", "/api/agents/renew", token) for token in tokens]

        assert [(a.status_code, a.json()["title"]) for a in answers] == [
            (401, "missing_token"), (401, "invalid_token"), (401, "invalid_token")
        ]  # fmt: skip

    async def test_the_revoked_do_not_renew(self, server: RunningServer, database: str) -> None:
        """Neither with the revocation known in memory nor, before the poll, with one that only the table holds."""
        token = server.agent_token()
        server.service.access._marks = dict.fromkeys(("revocation", "protection", "quota"), "")
        async with server.service.access._one_at_a_time:  # the poll stands still
            await sql(
                database,
                "INSERT INTO revocation (org, kind, subject, revoked_by, reason) VALUES ('org-a','host','host-1','x','x')",
            )
            by_table = await server.call("POST", "/api/agents/renew", token)
        await eventually(lambda: len(server.service.revocations) == 1, "the poll")
        by_memory = await server.call("POST", "/api/agents/renew", token)

        assert [(a.status_code, a.json()["title"]) for a in (by_table, by_memory)] == [(401, "agent_revoked")] * 2

    async def test_renewal_and_revocation_at_once(self, server: RunningServer, database: str) -> None:
        """Whatever the order in which a renewal and a revocation of the host come, no token outlives the revocation."""
        for number in range(10):
            host = f"host-{number}"
            token = await enrol(server, host)
            renewals = [server.call("POST", "/api/agents/renew", token) for _ in range(8)]
            revocation = admin(server, "POST", f"/api/hosts/{host}/revoke", {"reason": "x"})
            revoked, *answers = await asyncio.gather(revocation, *renewals)
            await server.service.access.refresh()
            good = [
                answer.json()["token"]
                for answer in answers
                if answer.status_code == 201
                and not server.service.revocations.revoked(server.service.tokens.agent(answer.json()["token"]))
            ]

            assert revoked.status_code == 200
            assert good == []

    async def test_a_renewal_waits_for_a_revocation_under_way(self, server: RunningServer, database: str) -> None:
        """A renewal that comes while a revocation is not committed yet is refused once it is."""
        token = await enrol(server)
        connection = await asyncpg.connect(database)
        try:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('seatrial/org-a/host-1', 0))")
            await connection.execute(
                "INSERT INTO revocation (org, kind, subject, revoked_by, reason) VALUES ('org-a','host','host-1','x','x')"
            )
            renewal = asyncio.create_task(server.call("POST", "/api/agents/renew", token))

            async def waits() -> bool:
                found = await sql(database, "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
                return bool(found)

            await eventually(waits, "the renewal waiting")
            await transaction.commit()
            assert (await renewal).json()["title"] == "agent_revoked"
        finally:
            await connection.close()


class TestRevocation:
    """A host that must not come back with what it has."""

    async def test_a_revoked_host_is_closed_refused_and_enrolled_again(self, server: RunningServer) -> None:
        """Row 5: its socket closes 4503, its token gets 401 agent_revoked; a new invitation right after is good."""
        old = await enrol(server)
        unused = (await invite(server))["enrolment_token"]
        async with server.agent(token=old) as agent, server.agent(host="host-2") as bystander:
            answer = await admin(server, "POST", "/api/hosts/host-1/revoke", {"reason": "stolen"})
            code, _ = await agent.closed()
            await bystander.batch(1)
            await bystander.acked(1)
        refusal = await refused(server, old)
        void, _ = await exchange(server, unused)
        new = await enrol(server)
        async with server.agent(token=new) as agent:
            assert agent.welcome

        assert answer.status_code == 200
        assert abs(answer.json()["revoked_at"] / 1e6 - time.time()) < 60
        assert (code, refusal, void) == (4503, (401, "agent_revoked"), 401)
        assert await refused(server, old) == (401, "agent_revoked")
        assert ("ada", "host.revoke", "host:host-1", "done", "") in await audit(server)

    async def test_an_agent_that_has_not_said_hello_is_closed_too(self, server: RunningServer) -> None:
        """A socket that was admitted before the revocation and waits before its hello does not slip through."""
        async with server.agent(), server.agent(greet=False, host="host-1") as silent:
            await eventually(lambda: len(server.service.agents._connections) == 2, "both sockets open")
            await admin(server, "POST", "/api/hosts/host-1/revoke", {"reason": "x"})
            assert (await silent.closed())[0] == 4503

    async def test_a_revocation_by_sql_counts(self, server: RunningServer, database: str) -> None:
        """What another process writes into the table closes the socket, and refuses the token, within the poll."""
        token = server.agent_token()
        async with server.agent(token=token) as agent:
            await sql(
                database,
                "INSERT INTO revocation (org, kind, subject, revoked_by, reason) VALUES ('org-a','token',$1,'x','x')",
                server.service.tokens.agent(token).token_id,
            )
            assert (await agent.closed())[0] == 4503
        assert await refused(server, token) == (401, "agent_revoked")
        await sql(database, "DELETE FROM revocation")
        await eventually(lambda: len(server.service.revocations) == 0, "taken back")
        async with server.agent(token=token) as agent:
            assert agent.welcome
