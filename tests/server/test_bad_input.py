"""What the doors refuse, over the wire: each test names its row of the list of bad inputs.

Rows 5, 6 and 13 have theirs beside what they are about: tests/server/http/test_agents.py, test_tickets.py, test_quotas.py.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import websockets
from cryptography.hazmat.primitives import serialization

from server.auth import keys
from server.protocol.identity import container_id
from tests.support.access import admin, audit, forged
from tests.support.server import SECRET, RunningServer, docker_id, hello, line, now_us, running_server

KEY = str(container_id("org-a", "host-1", docker_id(0)))
PRIVATE = keys.generate("EdDSA")
PUBLIC = PRIVATE.public_key()
NOW = int(time.time())
CLAIMS = {"iss": "seatrial", "aud": "agent", "sub": "host-1", "org": "org-a", "iat": NOW, "exp": NOW + 3600, "jti": "j"}
AGENT_UPGRADE = ("/ws/agent", "seatrial.agent.v1")


async def upgrade(server: RunningServer, door: tuple[str, str], /, **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of an upgrade that is written by hand; `Host` and anything else may be forged."""
    lines = {
        "Host": server.address, "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": door[1],
    } | {name.replace("_", "-"): value for name, value in headers.items()}  # fmt: skip
    reader, writer = await asyncio.open_connection(*server.address.split(":"))
    try:
        text = f"GET {door[0]} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        writer.write(f"{text}\r\n".encode("latin-1"))
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            found = {name.lower(): value for name, _, value in (entry.partition(": ") for entry in head[1:] if entry)}
            body = await reader.readexactly(int(found.get("content-length", 0)))
        return int(head[0].split(" ")[1]), found, body.decode()
    finally:
        writer.close()


def live_upgrade(path: str) -> tuple[str, str]:
    """The door of subscribers."""
    return path, "seatrial.live.v1"


def bearer(token: str) -> dict[str, str]:
    """The header of a token."""
    return {"Authorization": f"Bearer {token}"}


def signed(key: Any = SECRET, alg: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    """An agent's token with some claims changed, or left out where they are `...`."""
    kept = {name: value for name, value in (CLAIMS | claims).items() if value is not ...}
    return jwt.encode(kept, key, algorithm=alg, headers=headers)


@pytest.fixture
async def keyed(database: str, tmp_path: Path) -> AsyncIterator[RunningServer]:
    """A server with key files instead of a secret, as in production."""
    keys.write_pair(tmp_path, PRIVATE, kid="k1")
    async with running_server(
        database, jwt_secret=None, jwt_keys=tmp_path / "jwks.json", jwt_signing_key=tmp_path / "signing-key.pem",
        jwt_signing_kid="k1",
    ) as server:  # fmt: skip
        yield server


class TestTokens:
    """Rows 1 to 4: who are you?"""

    async def test_row_1_no_token(self, server: RunningServer) -> None:
        """Row 1: without a token both REST and the agent's upgrade say 401, how to authenticate, and missing_token."""
        for headers in ({}, {"Authorization": ""}, {"Authorization": "Basic eDp5"}, {"Authorization": "Bearer "}):
            status, found, body = await upgrade(server, AGENT_UPGRADE, **headers)
            assert (status, found["www-authenticate"], json.loads(body)["error"]) == (401, "Bearer", "missing_token")
        answer = await server.get("/api/hosts")
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert answer.json()["title"] == "missing_token"

    async def test_row_2_with_a_secret(self, server: RunningServer) -> None:
        """Row 2: alg none, another algorithm or key, a kid, and an unknown critical header are 401 invalid_token."""
        tokens = [
            signed("", "none"),
            signed(SECRET * 2, "HS512"),
            signed("another-secret-that-is-just-as-long-as-ours"),
            signed(PRIVATE, "EdDSA"),
            signed(headers={"kid": "k1"}),
            signed(headers={"crit": ["x"], "x": 1}),
        ]
        await self._refused(server, tokens)

    async def test_row_2_with_key_files(self, keyed: RunningServer) -> None:
        """Row 2: with public keys, what is signed with their bytes or by an unknown kid is refused; a good one is not."""
        secret = PUBLIC.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        kid = {"kid": "k1"}
        await self._refused(
            keyed,
            [
                signed("", "none", kid), forged(secret, kid | {"alg": "HS256", "typ": "JWT"}, CLAIMS), signed(SECRET),
                signed(PRIVATE, "EdDSA", {"kid": "k2"}),
                signed(PRIVATE, "EdDSA"), signed(PRIVATE, "EdDSA", kid | {"crit": ["x"], "x": 1}),
                signed(keys.generate("EdDSA"), "EdDSA", kid), signed(PRIVATE, "EdDSA", kid | {"typ": "at+jwt"}),
            ],
        )  # fmt: skip
        assert (await upgrade(keyed, AGENT_UPGRADE, **bearer(signed(PRIVATE, "EdDSA", kid))))[0] == 101

    @pytest.mark.parametrize(
        "claims",
        [
            {"exp": 1000}, {"nbf": 4e9}, {"iat": 4e9, "exp": 4e9 + 60}, {"aud": "user"}, {"aud": ["agent", "user"]},
            {"iss": "others"}, {"exp": ...}, {"exp": 10**18}, {"jti": ...}, {"org": ...}, {"sub": ["host-1"]}, {"iat": ...},
        ],
        ids=str,
    )  # fmt: skip
    async def test_row_3(self, server: RunningServer, claims: dict[str, Any]) -> None:
        """Row 3: times past or to come, a wrong audience or issuer, and missing claims are 401 invalid_token."""
        await self._refused(server, [signed(**claims)])

    @pytest.mark.parametrize("headers", [{"typ": None}, {"typ": "at+jwt"}, {"typ": "JWE"}], ids=str)
    async def test_row_3_typ(self, server: RunningServer, headers: dict[str, Any]) -> None:
        """Row 3: another typ in the header, or none, is 401 invalid_token."""
        await self._refused(server, [signed(headers=headers)])

    async def test_row_4_the_wrong_door(self, server: RunningServer) -> None:
        """Row 4: users' tokens and tickets open no agent's socket, agents' tokens neither REST nor the live socket."""
        ticket = (await server.post("/api/live-tickets", server.user_token())).json()["ticket"]
        invitation = (await admin(server, "POST", "/api/hosts", {"host": "h"})).json()["enrolment_token"]
        await self._refused(server, [server.user_token(role="owner"), ticket, invitation])
        status, _, _ = await upgrade(server, (f"/ws/agent?ticket={ticket}", AGENT_UPGRADE[1]))
        rest = await server.get("/api/hosts", server.agent_token())
        async with server.live(query=f"token={server.agent_token()}") as live:
            code, _ = await live.closed()

        assert (status, rest.status_code, rest.json()["title"], code) == (401, 401, "invalid_token", 4001)

    async def test_the_way_with_key_files(self, keyed: RunningServer) -> None:
        """In production a user of the identity provider enrols a host, whose agent gets a token that the server signed."""
        claims = {"aud": "user", "sub": "ada", "role": "admin", "jti": "u1"}
        user = signed(PRIVATE, "EdDSA", {"kid": "k1"}, **claims)
        invited = await keyed.call("POST", "/api/hosts", user, json={"host": "host-1"})
        got = await keyed.call("POST", "/api/agents/enroll", json={"token": invited.json()["enrolment_token"]})
        async with keyed.agent(token=got.json()["token"]) as agent:
            await agent.batch(1)
            await agent.acked(1)

        assert jwt.get_unverified_header(got.json()["token"])["kid"] == "k1"

    async def _refused(self, server: RunningServer, tokens: list[str]) -> None:
        for token in tokens:
            status, found, body = await upgrade(server, AGENT_UPGRADE, **bearer(token))
            assert (status, json.loads(body)["error"]) == (401, "invalid_token"), body
            assert found["www-authenticate"] == "Bearer"
            assert token not in body


class TestOrigins:
    """Rows 6 to 8: where does it come from?"""

    async def test_row_6_another_origin(self, database: str) -> None:
        """Row 6: a ticket that another allowed Origin asked for is accepted, closed 4001, and used up."""
        origin = "https://app.example"
        async with running_server(database, allowed_origins=(origin,)) as server:
            ticket = (await server.post("/api/live-tickets", server.user_token(), Origin=origin)).json()["ticket"]
            for brought in (server.http, origin):
                async with server.live(query=f"ticket={ticket}", origin=brought) as live:
                    assert (await live.closed())[0] == 4001

    async def test_a_ticket_without_an_origin(self, server: RunningServer) -> None:
        """Row 6: one that a program asked for is bound to no Origin, and good once all the same."""
        ticket = (await server.post("/api/live-tickets", server.user_token())).json()["ticket"]
        async with server.live(query=f"ticket={ticket}") as live:
            await live.send({"type": "heartbeat", "at": 1})
            await live.until("heartbeat")
        async with server.live(query=f"ticket={ticket}") as live:
            assert (await live.closed())[0] == 4001

    @pytest.mark.parametrize(
        "origin",
        [
            None, "null", "", "https://evil.example", "https://app.example.evil", "https://evil.example/https://app.example",
            "https://app.example:444", "http://app.example", "https://APP.example", "https://app.example/", "app.example",
            "https://app.example https://evil.example", "file://", "https://xapp.example", "https://app.example\xa0",
        ],
        ids=str,
    )  # fmt: skip
    async def test_row_7(self, database: str, origin: str | None) -> None:
        """Row 7: an Origin that is not ours to the letter, or none, is 403, whatever the ticket."""
        async with running_server(database, allowed_origins=("https://app.example",)) as server:
            ticket = (await server.post("/api/live-tickets", server.user_token())).json()["ticket"]
            headers = {} if origin is None else {"Origin": origin}
            status, _, body = await upgrade(server, live_upgrade(f"/ws/live?ticket={ticket}"), **headers)
            good, _, _ = await upgrade(server, live_upgrade(f"/ws/live?ticket={ticket}"), Origin="https://app.example")

        assert (status, json.loads(body)["error"], good) == (403, "origin", 101)

    async def test_row_7_host_is_not_believed(self, database: str) -> None:
        """Rows 7, 8: with public_url set, a Host that agrees with a foreign Origin (DNS rebinding) opens nothing."""
        async with running_server(database, public_url="https://seatrial.example") as server:
            door = live_upgrade(f"/ws/live?token={server.user_token()}")
            foreign, _, _ = await upgrade(server, door, Host="evil.example", Origin="http://evil.example")
            dialled, _, _ = await upgrade(server, door, Origin=server.http)
            own, _, _ = await upgrade(server, door, Origin="https://seatrial.example")

        assert (foreign, dialled, own) == (403, 403, 101)

    @pytest.mark.parametrize(
        "headers",
        [
            {"Host": "x/abc?"}, {"Host": "evil.example"}, {"X_Forwarded_For": "127.0.0.1"}, {"X_Real_IP": "127.0.0.1"},
            {"Forwarded": "for=127.0.0.1;host=evil.example"}, {"X_Forwarded_Host": "evil.example"},
            {"X_Original_URL": "/livez"}, {"X_HTTP_Method_Override": "DELETE"},
        ],
        ids=str,
    )  # fmt: skip
    async def test_row_8(self, server: RunningServer, headers: dict[str, str]) -> None:
        """Row 8: forged Host and forwarding headers change no decision, neither to let in nor to keep out."""
        good, bad = server.user_token(), "rubbish"
        decisions = [
            (await server.call("GET", "/api/hosts", good, **headers)).status_code,
            (await server.call("GET", "/api/hosts", bad, **headers)).status_code,
            (await upgrade(server, AGENT_UPGRADE, **bearer(server.agent_token()), **headers))[0],
            (await upgrade(server, AGENT_UPGRADE, **bearer(bad), **headers))[0],
            (await upgrade(server, live_upgrade(f"/ws/live?token={good}"), Origin="http://other.example", **headers))[
                0
            ],
        ]

        # A Host that no URL can have may be refused as a whole.
        assert decisions in ([200, 401, 101, 401, 403], [400, 400, 400, 400, 400])


class TestConnections:
    """Rows 14 and 15."""

    async def test_row_14_no_hello(self, database: str) -> None:
        """Row 14: who is admitted and says nothing is closed 4002, and frees its place."""
        async with running_server(database, hello_timeout_seconds=0.2) as server:
            async with server.agent(greet=False) as agent:
                code, reason = await agent.closed()
            organisation = server.service.quotas.of("org-a")

            assert (code, reason) == (4002, "no hello within 0.2 s")
            assert (organisation.greeting, server.service.agents._greeting) == (0, 0)

    async def test_row_15_a_second_connection(self, server: RunningServer) -> None:
        """Row 15: the newer connection of an agent gets in, the older one is closed 4509, and counts once."""
        epoch = str(uuid.uuid4())
        async with server.agent(epoch=epoch) as old, server.agent(epoch=epoch, connection=2) as new:
            code, _ = await old.closed()
            await new.batch(1)
            await new.acked(1)

            assert (code, server.service.quotas.of("org-a").agents, server.service.registry.connected) == (4509, 1, 1)


class TestTenants:
    """Rows 29 and 37."""

    async def test_row_29_the_body_names_nobody(self, server: RunningServer) -> None:
        """Row 29: host, organisation or agent ids in frames mean nothing; the token says who it is."""
        claim = {
            "org": "org-b",
            "host": "host-9",
            "org_id": "org-b",
            "agent_id": "host-9",
            "sub": "host-9",
            "aud": "user",
        }
        async with server.agent(greet=False) as agent, server.live(org="org-b") as other:
            await other.send({"type": "subscribe", "topics": ["fleet"]})
            await other.until("snapshot")
            await agent.send(hello() | claim)
            await agent.until("welcome")
            batch = {"type": "batch", "seq": 1, "oldest": 1, "at": now_us(), "logs": [line("x", now_us())]}
            await agent.send(batch | claim)
            await agent.acked(1)
            fleet = (await other.until("snapshot"))["fleet"]
            records = set(server.service.registry.records)

        assert records == {("org-a", "host-1")}
        assert (fleet["hosts_online"], fleet["containers"]) == (0, 0)

    async def test_row_29_in_rest(self, server: RunningServer) -> None:
        """Row 29: an organisation in a body, a query or a header of REST is refused or means nothing."""
        async with server.agent():
            token = server.user_token(org="org-b", role="owner")
            refused = await server.call("POST", "/api/hosts", token, json={"host": "h", "org": "org-a"})
            hosts = await server.call("GET", "/api/hosts?org=org-a", token, X_Org="org-a", Org="org-a")

        assert (refused.status_code, hosts.json()["hosts"]) == (422, [])
        assert await audit(server) == []

    async def test_row_37_foreign_topics(self, server: RunningServer) -> None:
        """Row 37: a topic of another organisation gets the answer of one that nobody has, word for word."""
        async with server.agent(), server.live(org="org-b") as live:
            answers = []
            for mine, nobodys in (
                ("host:host-1", "host:host-0"),
                (f"container:{KEY}", "container:7"),
                (f"logs:{KEY}", "logs:7"),
            ):
                for topic in (mine, nobodys):
                    await live.send({"type": "subscribe", "topics": [topic]})
                    answer = await live.receive()
                    assert answer.pop("about")["topic"] == topic
                    answers.append(answer)

        assert all(answer == answers[0] for answer in answers)
        assert answers[0]["code"] == "not_found"

    async def test_row_37_foreign_ids_in_rest(self, server: RunningServer) -> None:
        """Row 37: every route with an id answers 404 for another organisation's, as for one that nobody has."""
        token = server.user_token(org="org-b", role="owner")
        async with server.agent() as agent:
            await agent.batch(1)
            await agent.acked(1)
            for method, path, body in (
                ("POST", "/api/hosts/{host}/revoke", {"reason": "x"}),
                ("PUT", "/api/containers/{container}/protection", {"protected": True, "reason": "x"}),
            ):
                mine = await server.call(method, path.format(host="host-1", container=KEY), token, json=body)
                nobodys = await server.call(method, path.format(host="host-0", container="7"), token, json=body)
                assert (mine.status_code, nobodys.status_code) == (404, 404)
                assert mine.json()["title"] == nobodys.json()["title"] == "not_found"

        assert await audit(server, "org-b") == []


class TestSubscriptions:
    """Subscribers that ask for too much."""

    async def test_row_38_ten_thousand_topics(self, database: str) -> None:
        """What is over the limit is refused topic by topic, then the socket is closed with 4505; a wildcard is no topic."""
        async with running_server(database, max_subscriptions=1) as server, server.live() as live:
            await live.send({"type": "subscribe", "topics": ["logs:*"]})
            assert (await live.until("error"))["code"] == "not_found"
            await live.send({"type": "subscribe", "topics": ["fleet"]})
            for number in range(2):
                await live.send({"type": "subscribe", "topics": [f"host:{number}-{i}" for i in range(100)]})
            assert (await live.until("error"))["code"] == "limit_exceeded"
            assert (await live.closed())[0] == 4505

    async def test_row_38_a_flood_of_requests(self, server: RunningServer) -> None:
        """Subscribing and unsubscribing without end is closed with 4013; another socket of the same user is not touched."""
        async with server.live() as live, server.live() as other:
            with contextlib.suppress(websockets.ConnectionClosed):
                for _ in range(400):
                    await live.send({"type": "subscribe", "topics": ["fleet"]})
                    await live.send({"type": "unsubscribe", "topics": ["fleet"]})
            assert (await live.closed())[0] == 4013
            await other.send({"type": "subscribe", "topics": ["fleet"]})
            await other.until("snapshot")


async def test_tokens_are_never_repeated(server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    """No refusal and no log line holds a token, a ticket or an invitation."""
    canary = "canary-7f3a"
    for path in ("/ws/live?token={}", "/ws/live?ticket={}"):
        async with server.live(query=path.format(canary).partition("?")[2]) as live:
            _, reason = await live.closed()
            assert canary not in reason
    with pytest.raises(websockets.InvalidStatus):
        async with server.agent(token=canary):
            pass
    answers = [
        await server.call("POST", "/api/agents/enroll", json={"token": canary}),
        await server.call("POST", "/api/agents/renew", canary),
        await server.get("/api/hosts", canary),
    ]

    assert all(canary not in answer.text for answer in answers)
    assert canary not in caplog.text
