"""Revocations, protected containers and quotas over REST, each attempt in the audit log once."""

import asyncio

import pytest

from server.protocol.identity import container_id
from tests.support.access import admin, audit, sql
from tests.support.server import RunningServer, container, docker_id, eventually, running_server

KEY = str(container_id("org-a", "host-1", docker_id(0)))
PROTECTION = f"/api/containers/{KEY}/protection"
COMPOSE = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}


def who(server: RunningServer, subject: str = "mallory", **fields: str) -> str:
    """A user's token."""
    return server.service.tokens.mint_user(
        **{"org": "org-a", "subject": subject, "role": "viewer", "seconds": 3600} | fields  # type: ignore[arg-type]
    )


class TestRevocations:
    """Users and tokens that are worth nothing any more."""

    async def test_a_revoked_user(self, server: RunningServer) -> None:
        """REST answers 401 revoked, open sockets close 4503, new ones too; a token issued afterwards is good again."""
        token, bystander = who(server), who(server, "bob")
        async with server.live(query=f"token={token}") as live, server.live(query=f"token={bystander}") as other:
            answer = await admin(
                server, "POST", "/api/revocations", {"kind": "user", "subject": "mallory", "reason": "left"}
            )
            code, _ = await live.closed()
            await other.send({"type": "heartbeat", "at": 1})
            assert (await other.until("heartbeat"))["at"] == 1
        rest = await server.get("/api/hosts", token)
        async with server.live(query=f"token={token}") as live:
            again, _ = await live.closed()
        fresh = await server.get("/api/hosts", who(server))

        assert answer.status_code == 201
        assert (answer.json()["kind"], answer.json()["subject"], answer.json()["revoked_by"]) == (
            "user",
            "mallory",
            "ada",
        )
        assert (code, again) == (4503, 4503)
        assert (rest.status_code, rest.json()["title"]) == (401, "revoked")
        assert fresh.status_code == 200
        assert await audit(server) == [("ada", "user.revoke", "user:mallory", "done", "")]

    async def test_a_revoked_token(self, server: RunningServer) -> None:
        """Only the token that is named ends; the user's other one goes on."""
        one, two = who(server), who(server)
        token_id = server.service.tokens.user(one).token_id
        await admin(server, "POST", "/api/revocations", {"kind": "token", "subject": token_id, "reason": "leaked"})

        assert [(await server.get("/api/hosts", token)).status_code for token in (one, two)] == [401, 200]
        assert await audit(server) == [("ada", "token.revoke", f"token:{token_id}", "done", "")]

    async def test_a_ticket_dies_with_its_token(self, server: RunningServer) -> None:
        """A ticket that was issued before the revocation opens nothing, and a socket that it opened is closed."""
        headers = {"Origin": server.http}
        tickets = [(await server.post("/api/live-tickets", who(server), **headers)).json()["ticket"] for _ in range(2)]
        async with server.live(query=f"ticket={tickets[0]}") as live:
            await live.send({"type": "heartbeat", "at": 1})
            await live.until("heartbeat")
            await admin(server, "POST", "/api/revocations", {"kind": "user", "subject": "mallory", "reason": "x"})
            assert (await live.closed())[0] == 4503
        async with server.live(query=f"ticket={tickets[1]}") as live:
            assert (await live.closed())[0] == 4503

    async def test_a_revocation_by_sql_closes_live_sockets(self, server: RunningServer, database: str) -> None:
        """What another process writes counts here within the poll, though nobody asked this one."""
        async with server.live(query=f"token={who(server)}") as live:
            await sql(
                database,
                "INSERT INTO revocation (org, kind, subject, revoked_by, reason) VALUES ('org-a','user','mallory','x','x')",
            )
            assert (await live.closed())[0] == 4503

    async def test_they_survive_a_restart(self, database: str) -> None:
        """A revocation is in force from the first request of a new process."""
        async with running_server(database) as server:
            token = who(server)
            await admin(server, "POST", "/api/revocations", {"kind": "user", "subject": "mallory", "reason": "x"})
        async with running_server(database) as server:
            assert (await server.get("/api/hosts", token)).json()["title"] == "revoked"

    async def test_the_list_by_page(self, server: RunningServer) -> None:
        """Every revocation of the organisation once, by kind and subject; none of another; hosts among them."""
        await admin(server, "POST", "/api/hosts", {"host": "h"})
        await admin(server, "POST", "/api/hosts/h/revoke", {"reason": "stolen"})
        for kind, subject in (("user", "a:b"), ("user", "z"), ("token", "j")):
            await admin(server, "POST", "/api/revocations", {"kind": kind, "subject": subject, "reason": "r"})
        await admin(server, "POST", "/api/revocations", {"kind": "user", "subject": "x", "reason": "r"}, org="org-b")
        found: list[tuple[str, str]] = []
        after = ""
        while True:
            page = (await admin(server, "GET", f"/api/revocations?limit=2{after}")).json()
            found += [(r["kind"], r["subject"]) for r in page["revocations"]]
            if page["next"] is None:
                break
            after = f"&after={page['next']}"

        assert found == [("host", "h"), ("token", "j"), ("user", "a:b"), ("user", "z")]

    @pytest.mark.parametrize("role", ["viewer", "operator"])
    async def test_other_roles_are_denied(self, server: RunningServer, role: str) -> None:
        """Who is no Admin revokes nobody, sees no list, and is in the audit log once."""
        body = {"kind": "user", "subject": "mallory", "reason": "x"}
        answers = [
            await admin(server, "POST", "/api/revocations", body, role=role),
            await admin(server, "GET", "/api/revocations", role=role),
        ]

        assert [(a.status_code, a.json()["title"]) for a in answers] == [(403, "forbidden")] * 2
        assert len(server.service.revocations) == 0
        assert await audit(server) == [("ada", "user.revoke", "user:mallory", "denied", "forbidden")]

    async def test_an_admin_revoked_elsewhere_is_denied_at_once(self, server: RunningServer, database: str) -> None:
        """The transaction that decides asks the table: a revocation that the poll has not seen denies the operation."""
        token = server.user_token(role="admin", subject="ada")
        async with server.service.access._one_at_a_time:  # the poll stands still
            await sql(
                database,
                "INSERT INTO revocation (org, kind, subject, revoked_by, reason) VALUES ('org-a','user','ada','x','x')",
            )
            answer = await server.call("POST", "/api/hosts", token, json={"host": "h"})

        assert (answer.status_code, answer.json()["title"]) == (403, "revoked")
        assert await sql(database, "SELECT FROM enrolment") == []
        await eventually(lambda: len(server.service.revocations) == 1, "the poll")
        assert await audit(server) == [("ada", "host.enrol", "host:h", "denied", "revoked")]

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"kind": "all", "subject": "h", "reason": "x"}, "kind"),
            ({"kind": "user", "subject": "", "reason": "x"}, "subject"),
            ({"kind": "user", "subject": "a\x00", "reason": "x"}, "subject"),
            ({"kind": "user", "subject": ["a"], "reason": "x"}, "subject"),
            ({"kind": "user", "subject": "x" * 129, "reason": "x"}, "subject"),
            ({"kind": "user", "subject": "a"}, "reason"),
            ({"kind": "user", "subject": "a", "reason": "  "}, "reason"),
            ({"kind": "user", "subject": "a", "reason": "x", "org": "org-b"}, "org"),
        ],
    )
    async def test_bad_requests_name_the_field(
        self, server: RunningServer, body: dict[str, object], field: str
    ) -> None:
        """What is missing, wrong or unknown is named, and nobody is revoked."""
        answer = await admin(server, "POST", "/api/revocations", body)

        assert answer.status_code == 422
        assert field in answer.text
        assert len(server.service.revocations) == 0

    async def test_a_reason_is_stored_as_text(self, server: RunningServer) -> None:
        """Rows 34-36: quotes, markup, NUL and line breaks in a reason are data."""
        reason = "'; DROP TABLE audit; --\x00<script>\r\n{}"
        answer = await admin(server, "POST", "/api/revocations", {"kind": "user", "subject": "a", "reason": reason})

        assert answer.status_code == 201
        assert answer.json()["reason"] == reason.replace("\x00", "\ufffd")


class TestProtection:
    """Containers that only an Admin may stop."""

    async def test_a_series_is_protected(self, server: RunningServer) -> None:
        """The container, and the one that replaces it, are protected; watchers are told; it can be taken back."""
        labelled = container(0, labels=COMPOSE)
        async with server.agent(containers=[labelled]) as agent, server.live() as live:
            await live.send({"type": "subscribe", "topics": ["host:host-1"]})
            await live.until("snapshot")
            answer = await admin(server, "PUT", PROTECTION, {"protected": True, "reason": "database"})
            told = (await live.until("host"))["upserts"]
            await agent.send(
                {"type": "inventory", "at": 1, "upserts": [container(1, labels=COMPOSE, name="web-2")], "removed": [0]}
            )
            replaced = (await live.until("host"))["upserts"]
            back = await admin(
                server, "PUT", PROTECTION.replace(KEY, replaced[0]["id"]), {"protected": False, "reason": "moved"}
            )
            told_back = (await live.until("host"))["upserts"]

        assert (answer.status_code, answer.json()["protected"], answer.json()["series"]) == (200, True, "shop/web")
        assert [(c["id"], c["protected"]) for c in told] == [(KEY, True)]
        assert [(c["name"], c["protected"]) for c in replaced] == [("web-2", True)]
        assert back.json()["protected"] is False
        assert [(c["name"], c.get("protected", False)) for c in told_back] == [("web-2", False)]
        assert [row[1:4] for row in await audit(server)] == [
            ("container.protect", f"container:{KEY}", "done"),
            ("container.unprotect", f"container:{replaced[0]['id']}", "done"),
        ]

    async def test_it_survives_a_restart_and_a_long_absence(self, database: str) -> None:
        """A new process knows it, from memory of what is present and from the tables of what is gone."""
        async with running_server(database) as server:
            async with server.agent():
                await admin(server, "PUT", PROTECTION, {"protected": True, "reason": "x"})
            gone = "/api/containers/{}/protection".format(container_id("org-a", "host-2", docker_id(0)))
            async with server.agent(host="host-2") as agent:
                await agent.send({"type": "inventory", "at": 1, "removed": [0]})
                await agent.batch(1, metrics=[])
                await agent.acked(1)
        async with running_server(database) as server:
            record = server.service.registry.records["org-a", "host-1"]
            present = [c.status("host-1").protected for c in record.by_id.values()]
            async with server.agent(connection=9):
                again = [c.status("host-1").protected for c in record.by_id.values()]
            answer = await admin(server, "PUT", gone, {"protected": True, "reason": "x"})

        assert (present, again) == ([True], [True])
        assert (answer.status_code, answer.json()["protected"], answer.json()["state"]) == (200, True, "removed")

    async def test_a_label_protects_for_good(self, server: RunningServer) -> None:
        """What its own label protects cannot be unprotected here."""
        async with server.agent(containers=[container(0, protected=True)]):
            answer = await admin(server, "PUT", PROTECTION, {"protected": False, "reason": "x"})

        assert answer.json()["protected"] is True

    async def test_other_roles_and_tenants(self, server: RunningServer) -> None:
        """An Operator is denied, with one audit row; another organisation's Admin finds nothing, and leaves none."""
        body = {"protected": True, "reason": "x"}
        async with server.agent():
            denied = await admin(server, "PUT", PROTECTION, body, role="operator")
            foreign = await admin(server, "PUT", PROTECTION, body, org="org-b")
            missing = await admin(server, "PUT", "/api/containers/1/protection", body, org="org-b")
            record = server.service.registry.records["org-a", "host-1"]

            assert [c.protected for c in record.by_id.values()] == [False]
        assert (denied.status_code, denied.json()["title"]) == (403, "forbidden")
        assert [(a.status_code, a.json()["title"]) for a in (foreign, missing)] == [(404, "not_found")] * 2
        assert [row[3] for row in await audit(server)] == ["denied"]
        assert await audit(server, "org-b") == []

    @pytest.mark.parametrize("path", ["..%2f..%2fversion", "all", "-1", "9" * 20, "1e3", "%00"])
    async def test_odd_ids_are_refused(self, server: RunningServer, path: str) -> None:
        """Row 40: what is no container id names no container, and never all of them."""
        answer = await admin(server, "PUT", f"/api/containers/{path}/protection", {"protected": True, "reason": "x"})

        assert answer.status_code in {404, 422}
        assert await audit(server) == []

    async def test_by_sql(self, server: RunningServer, database: str) -> None:
        """A row of another process counts within the poll."""
        async with server.agent():
            (tracked,) = server.service.registry.records["org-a", "host-1"].by_id.values()
            await sql(
                database,
                "INSERT INTO protection (org, host, series, protected_by, reason) VALUES ('org-a','host-1','web-0','x','x')",
            )
            await eventually(lambda: tracked.protected, "protected")


class TestQuotas:
    """Limits and usage."""

    async def test_limits_and_usage(self, server: RunningServer, database: str) -> None:
        """A viewer sees the limits of the own organisation, as the table and the defaults say, and what it takes."""
        await sql(database, "INSERT INTO quota (org, agents) VALUES ('org-a', 5)")
        await eventually(lambda: server.service.quotas.of("org-a").limits.agents == 5, "the poll")
        async with (
            server.agent(containers=[container(0), container(1)]),
            server.agent(host="host-2"),
            server.agent(org="org-b"),
            server.live() as live,
        ):
            await live.send({"type": "heartbeat", "at": 1})
            await live.until("heartbeat")
            shown = (await server.get("/api/quotas", server.user_token())).json()
            other = (await server.get("/api/quotas", server.user_token(org="org-b"))).json()

        assert shown["limits"] == {
            "agents": 5, "containers": 200_000, "subscribers": 1_000, "batches_per_second": 20_000
        }  # fmt: skip
        usage = {name: shown["usage"][name] for name in ("agents", "containers", "subscribers", "acks_waiting")}
        assert usage == {"agents": 2, "containers": 3, "subscribers": 1, "acks_waiting": 0}
        assert (other["limits"]["agents"], other["usage"]["agents"]) == (10_000, 1)

    async def test_usage_goes_back_to_nothing(self, server: RunningServer) -> None:
        """What leaves is counted out: agents, subscribers, containers removed, and bytes committed."""
        organisation = server.service.quotas.of("org-a")
        async with server.agent(containers=[container(0), container(1)]) as agent, server.live() as live:
            await live.send({"type": "heartbeat", "at": 1})
            await live.until("heartbeat")
            await agent.batch(1)
            await agent.acked(1)
            await agent.send({"type": "inventory", "at": 1, "removed": [0, 0, 1, 9]})
            await agent.send({"type": "inventory", "at": 1, "removed": [1]})
            await eventually(lambda: organisation.containers == 0, "no containers")
        async with asyncio.timeout(20):
            while (organisation.agents, organisation.greeting, organisation.subscribers) != (0, 0, 0):
                await asyncio.sleep(0.02)  # there is no event to wait for: sockets end in their own time

        assert organisation.ingest_bytes == 0
