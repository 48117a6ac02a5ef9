"""A fleet recorded in front of a real server, sent again threefold, and verified row by row."""

import asyncio
from pathlib import Path

import asyncpg

from loadtests.verify import verify_all
from server.db.storage.plain import PlainStorage
from simulator.fleet import Fleet
from simulator.plan import Plan
from simulator.recorded_agents import read_recording
from simulator.recorder import recording
from simulator.recording import RecordingWriter
from tests.support.server import SECRET, running_server


async def test_a_recorded_fleet_is_sent_again_threefold(database: str, tmp_path: Path) -> None:
    """The recorded rows and those of every copy, looped past the recording's end or sent once, are stored as sent."""
    first, second, third, recorded = (tmp_path / name for name in ("first", "second", "third", "recording"))
    async with running_server(database) as server:
        writer = RecordingWriter(recorded, 1)
        async with recording("127.0.0.1", 0, server.ws, writer) as (_, proxy):
            host, port = proxy.sockets[0].getsockname()
            fleet = Fleet(
                Plan(
                    url=f"ws://{host}:{port}/ws/agent", secret=SECRET, org="org-a", agents=2, containers=3, log_lines=3,
                    interval_us=100_000, duration_us=1_500_000, ramp_us=100_000, profiles={"crash-looping": 1, "web": 1},
                ),
                first,
            )  # fmt: skip
            await asyncio.wait_for(fleet.run(asyncio.Event()), 60)
        writer.close()
        known = read_recording(recorded)
        copies = Fleet(
            Plan(
                url=f"{server.ws}/ws/agent", secret=SECRET, org="org-b", duration_us=4_000_000, ramp_us=100_000, seed=7,
                **known.plan_fields(3, {}),
            ),
            second,
        )  # fmt: skip
        once = Fleet(
            Plan(
                url=f"{server.ws}/ws/agent", secret=SECRET, org="org-c", duration_us=known.period_us + 1_000_000,
                ramp_us=1_000_000, replay_once=True, seed=8, **known.plan_fields(3, {}),
            ),
            third,
        )  # fmt: skip
        both = asyncio.gather(copies.run(asyncio.Event()), once.run(asyncio.Event()))
        await asyncio.wait_for(both, 60)

    connection = await asyncpg.connect(database)
    findings = await verify_all([first, second, third], PlainStorage(), connection)
    hosts = await connection.fetchval("SELECT count(*) FROM host WHERE org = 'org-b'")
    await connection.close()

    assert findings.clean, findings.examples
    assert findings.verified_fraction == 1.0
    sent = [one.counts.metrics_produced + one.counts.logs_produced for one in (fleet, copies, once)]
    assert findings.acked == sum(sent)
    assert sent[1] > 3 * 1.5 * sent[0]  # 4 s of a recording of 1.5 s
    assert sent[2] == 3 * sent[0]  # whole, though hosts begin up to a second late
    assert hosts == 6
    assert not copies.counts.rejected
