"""Drives a WebSocket server for `bench message`: the same batches at the same rate to an agent endpoint and to an echo.

    python -m loadtests.bench.driver PLAN OUT    (signs its tokens with SEATRIAL_JWT_SECRET)

PLAN and OUT are the JSON of `DriverPlan` and `Driven`. Every batch has its own intended time and is sent then, whatever was
answered (open loop). Connections take turns, so a server reads one batch at a time from each, as from agents.
"""

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import msgspec
import picows
import uvloop

from loadtests.bench.driver_plan import Driven, DriverPlan
from loadtests.bench.usage import Component
from loadtests.measure import Latency, now_us
from server.protocol.codec import encode
from server.protocol.messages import (
    AGENT_SUBPROTOCOL,
    Ack,
    AgentCommand,
    Batch,
    Container,
    Hello,
    Metric,
    Welcome,
    WindowUpdate,
)
from simulator.tokens import agent_token

MOST_OUTSTANDING = 64
"""Batches of a connection on their way: an agent's window, as the server grants it by default."""
OPEN_SECONDS = 10.0
_SHORTEST_SLEEP_SECONDS = 0.001
_decode = msgspec.json.Decoder(AgentCommand).decode


class Connection(picows.WSListener):
    """One agent, or one client of an echo."""

    def __init__(self, containers: int, *, agent: bool) -> None:
        self._agent = agent
        self._containers = containers
        self._transport: picows.WSTransport | None = None
        self._stopped = False
        self.ready = asyncio.get_running_loop().create_future()
        self.sent = self.answered = 0

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Say hello to an agent endpoint; an echo is ready at once."""
        self._transport = transport
        if not self._agent:
            self.ready.set_result(None)
            return
        containers = tuple(
            Container(ref=ref, id=f"{ref:064x}", name=f"service-{ref}", image="service", state="running")
            for ref in range(self._containers)
        )
        hello = Hello(
            protocol=1, epoch=str(uuid.uuid4()), connection=1, machine_id=uuid.uuid4().hex, oldest=1, next_seq=1,
            agent_version="bench", hostname="bench", cores=1, containers=containers,
        )  # fmt: skip
        transport.send(picows.WSMsgType.TEXT, encode(hello))

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """An answer."""
        if frame.msg_type == picows.WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        if frame.msg_type != picows.WSMsgType.TEXT:
            return
        if not self._agent:
            self.answered += 1
            return
        message = _decode(frame.get_payload_as_bytes())
        if isinstance(message, Ack):
            self.answered = message.seq
        elif isinstance(message, Welcome):
            self.ready.set_result(None)
        elif not isinstance(message, WindowUpdate):
            raise SystemExit(f"the server sent {message}")

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """It must not end before we do."""
        if not self._stopped:
            raise SystemExit("the server closed a connection")

    def send(self) -> None:
        """Send the next batch."""
        if self.sent - self.answered >= MOST_OUTSTANDING:
            raise SystemExit(f"the server left {MOST_OUTSTANDING} batches of a connection without an answer")
        self.sent += 1
        if self._transport is not None:
            self._transport.send(picows.WSMsgType.TEXT, self._frame())

    def stop(self) -> None:
        """Leave."""
        self._stopped = True
        if self._transport is not None:
            self._transport.disconnect()

    def _frame(self) -> bytes:
        metrics = tuple(
            Metric(ref=ref, cpu=12.5, mem=104_857_600, rx=self.sent * 1000, tx=self.sent * 500)
            for ref in range(self._containers)
        )
        return encode(Batch(seq=self.sent, oldest=1, at=now_us(), metrics=metrics))


async def drive(plan: DriverPlan) -> Driven:
    """Connect, warm up, drive, count.

    Raises:
        OSError, picows.WSError, TimeoutError: a connection was not made.
    """
    connections = [await _connect(plan, number) for number in range(plan.connections)]
    await _send(connections, plan.per_second, plan.warm_up_seconds, Latency())
    server, lag = Component("server", plan.pid), Latency()
    sent, answered = _totals(connections)
    cpu, begun = server.cpu_seconds(), time.monotonic()
    await _send(connections, plan.per_second, plan.seconds, lag)
    # Read before anybody leaves: closing costs the server too, and is no message.
    cpu, took = server.cpu_seconds() - cpu, time.monotonic() - begun
    sent_after, answered_after = _totals(connections)
    for connection in connections:
        connection.stop()
    return Driven(
        seconds=took, sent=sent_after - sent, answered=answered_after - answered, cpu_seconds=cpu, lag=lag.encode()
    )


async def _connect(plan: DriverPlan, number: int) -> Connection:
    headers = {}
    if plan.agent:
        token = agent_token(os.environ["SEATRIAL_JWT_SECRET"], "bench", f"bench-{number}")
        headers = {"Authorization": f"Bearer {token}", "Sec-WebSocket-Protocol": AGENT_SUBPROTOCOL}
    connection = Connection(plan.containers, agent=plan.agent)
    async with asyncio.timeout(OPEN_SECONDS):
        await picows.ws_connect(lambda: connection, plan.url, extra_headers=headers)
        await connection.ready
    return connection


async def _send(connections: Sequence[Connection], per_second: float, seconds: float, lag: Latency) -> None:
    """Send by the timeline for so long, the connections in turn."""
    begun = time.monotonic()  # the loop's own clock stands still while it works
    for number in range(round(per_second * seconds)):
        due = begun + number / per_second
        turn, index = divmod(number, len(connections))
        # uvloop rounds to milliseconds: what is due within one leaves in one turn of the loop, on different connections.
        if (left := due - time.monotonic()) > 0:
            await asyncio.sleep(max(left, _SHORTEST_SLEEP_SECONDS))
        elif index == 0 and turn:
            await asyncio.sleep(0)  # a driver that is behind still lets each batch leave before the next one
        lag.record_us(round((time.monotonic() - due) * 1e6))
        connections[index].send()
    await asyncio.sleep(max(0.0, begun + seconds - time.monotonic()))


def _totals(connections: Sequence[Connection]) -> tuple[int, int]:
    """Batches sent and answered so far."""
    return sum(connection.sent for connection in connections), sum(connection.answered for connection in connections)


def main() -> None:
    """Do what PLAN says, and write OUT."""
    plan = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=DriverPlan)
    Path(sys.argv[2]).write_bytes(msgspec.json.encode(uvloop.run(drive(plan))))


if __name__ == "__main__":
    main()
