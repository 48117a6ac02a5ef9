"""A token that ends while its agent is connected: renewed by dialling again, nothing lost."""

import uuid

import asyncpg

from tests.support.server import RunningServer


async def test_renewal_is_lossless(server: RunningServer, database: str) -> None:
    """Warned, the agent renews and takes its own connection over while it sends: no batch is lost, none is stored twice."""
    epoch = str(uuid.uuid4())
    async with server.agent(epoch=epoch, token=server.agent_token(seconds=6)) as old:
        seq, sent = 0, dict[int, int]()
        for seq in range(1, 6):
            sent[seq] = await old.batch(seq)
        await old.until("token_expiring")
        answer = await server.call("POST", "/api/agents/renew", server.agent_token(seconds=6))
        for seq in range(6, 11):  # it goes on meanwhile
            sent[seq] = await old.batch(seq)
        async with server.agent(
            epoch=epoch, connection=2, next_seq=11, token=answer.json()["token"]
        ) as new:  # fmt: skip
            code, _ = await old.closed()
            for again in range(new.welcome["acked_seq"] + 1, 11):  # what it was not told is committed
                await new.batch(again, at=sent[again])
            for seq in range(11, 16):
                sent[seq] = await new.batch(seq)
            await new.acked(15)
            (session,) = [record.session for record in server.service.registry.records.values()]

            assert session is not None
            assert server.service.quotas.of("org-a").agents == 1
    connection = await asyncpg.connect(database)
    stored = await connection.fetch("SELECT memory_bytes FROM container_metric ORDER BY timestamp")
    await connection.close()

    assert code == 4509
    assert [row["memory_bytes"] for row in stored] == [1000 * number for number in range(1, 16)]
    assert server.service.counters.takeovers == 1


async def test_the_new_token_lives_on(server: RunningServer) -> None:
    """The taken-over connection does not end with the old token: its own life begins with the new one."""
    epoch = str(uuid.uuid4())
    token = server.agent_token(seconds=2)
    async with server.agent(epoch=epoch, token=token) as old:
        await old.until("token_expiring")
        answer = await server.call("POST", "/api/agents/renew", token)
        async with server.agent(epoch=epoch, connection=2, token=answer.json()["token"]) as new:
            assert (await old.closed())[0] == 4509
            async with server.agent(host="witness", token=server.agent_token("witness", seconds=2)) as witness:
                assert (await witness.closed())[0] == 4001  # the old token's time is over
            await new.batch(1)
            await new.acked(1)
