"""Live tickets: once, for one Origin, and perhaps for some topics only."""

import asyncio

import pytest

from server.protocol.identity import container_id
from tests.support.access import sql
from tests.support.server import Client, RunningServer, docker_id, line, now_us

KEY = str(container_id("org-a", "host-1", docker_id(0)))


async def ticket(server: RunningServer, body: object = None, *, token: str | None = None) -> str:
    """A ticket."""
    answer = await server.call(
        "POST", "/api/live-tickets", token or server.user_token(), json=body, Origin=server.http
    )  # fmt: skip
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["ticket"]
    return found


async def outcome(live: Client, topic: str) -> str:
    """What a subscription is answered with: the snapshot, or the error's code."""
    await live.send({"type": "subscribe", "topics": [topic]})
    answer = await live.receive()
    return str(answer.get("code", answer["type"]))


async def test_one_of_100_gets_in(server: RunningServer) -> None:
    """Row 6: of 100 who bring one ticket at once, the first watches; the others are accepted and closed 4001."""
    query = f"ticket={await ticket(server)}"
    done = asyncio.Event()
    closes: list[int] = []

    async def bring() -> bool:
        async with server.live(query=query) as live:
            answer = asyncio.create_task(live.closed())
            await asyncio.wait({answer, asyncio.create_task(done.wait())}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                answer.cancel()
                return True
            closes.append(answer.result()[0])
            if len(closes) == 99:
                done.set()
            return False

    async with asyncio.timeout(60):
        won = await asyncio.gather(*(bring() for _ in range(100)))

    assert (sum(won), closes) == (1, [4001] * 99)


async def test_an_expired_ticket_is_worth_nothing(server: RunningServer, database: str) -> None:
    """Row 6: past its time a ticket is accepted and closed 4001, and used up by that."""
    found = await ticket(server)
    await sql(database, "UPDATE live_ticket SET expires_at = now() - interval '1 ms'")
    for _ in range(2):
        async with server.live(query=f"ticket={found}") as live:
            assert (await live.closed())[0] == 4001
    assert await sql(database, "SELECT FROM live_ticket") == []


async def test_a_scoped_ticket_watches_its_topics_only(server: RunningServer) -> None:
    """Other topics of the same organisation get the answer of topics that do not exist, and none of their frames."""
    async with server.agent() as agent, server.agent(host="host-2"):
        query = f"ticket={await ticket(server, {'topics': ['host:host-1', f'logs:{KEY}']})}"
        async with server.live(query=query) as live:
            wanted = ("host:host-1", "host:host-2", "fleet", f"container:{KEY}", "actions", "host:none")
            answers = {topic: await outcome(live, topic) for topic in wanted}
            await live.send({"type": "subscribe", "topics": [f"logs:{KEY}"]})
            await live.until("snapshot", lambda m: m["topic"] == f"logs:{KEY}")
            await agent.batch(1, logs=[line("one", now_us())])
            shown = await live.until("logs")

    assert answers == dict.fromkeys(wanted, "not_found") | {"host:host-1": "snapshot"}
    assert shown["topic"] == f"logs:{KEY}"


async def test_a_scope_never_widens(server: RunningServer) -> None:
    """A topic of another organisation in the scope does not exist all the same."""
    async with server.agent(), server.live(
        query=f"ticket={await ticket(server, {'topics': ['host:host-1']}, token=server.user_token(org='org-b'))}"
    ) as live:  # fmt: skip
        assert await outcome(live, "host:host-1") == "not_found"


async def test_without_a_scope_it_is_the_whole_organisation(server: RunningServer) -> None:
    """No body, an empty one, and a null scope are the same."""
    for body in (None, {}, {"topics": None}):
        async with server.live(query=f"ticket={await ticket(server, body)}") as live:
            assert await outcome(live, "fleet") == "snapshot"


@pytest.mark.parametrize(
    "topics",
    [[], ["all"], ["*"], ["host:"], ["host:../x"], ["logs:x"], ["fleet\n"], ["fleet", 5], "fleet", ["fleet"] * 201],
    ids=str,
)
async def test_odd_scopes_are_refused(server: RunningServer, topics: object) -> None:
    """What is no list of topics is refused by name; nothing means 'everything'."""
    answer = await server.call("POST", "/api/live-tickets", server.user_token(), json={"topics": topics})

    assert answer.status_code == 422
    assert "topics" in answer.text


async def test_the_ticket_carries_the_token(server: RunningServer) -> None:
    """Who redeems it is who asked for it: subject, organisation, role, and the token's id and times."""
    token = server.user_token(role="operator", subject="ada")
    asked = server.service.tokens.user(token)
    redeemed = await server.service.tickets.redeem(await ticket(server, token=token), server.http)

    assert redeemed is not None
    assert (redeemed.subject, redeemed.org, redeemed.role) == ("ada", "org-a", "operator")
    assert (redeemed.token_id, redeemed.issued_at, redeemed.expires_at) == (
        asked.token_id, asked.issued_at, asked.expires_at
    )  # fmt: skip
