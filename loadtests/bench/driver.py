"""Drives a WebSocket server for `bench message`: the same batches to an agent endpoint and to an echo.

    python -m loadtests.bench.driver URL SECONDS CONTAINERS OUT    (tokens, one a connection, in BENCH_TOKENS)

Each connection keeps `OUTSTANDING` batches on their way; one that is answered makes room for the next. OUT gets the counts
as JSON; OUT with the suffix .ready appears once every connection stands and the measuring begins.
"""

import asyncio
import json
import os
import sys
import time
import uuid
from pathlib import Path

import msgspec
import picows
import uvloop

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

OUTSTANDING = 32
_decode = msgspec.json.Decoder(AgentCommand).decode


class Connection(picows.WSListener):
    """One agent, or one client of an echo."""

    def __init__(self, containers: int, *, agent: bool) -> None:
        self._agent = agent
        self._containers = containers
        self._transport: picows.WSTransport | None = None
        self._seq = self._answered = 0
        self.ready = asyncio.get_running_loop().create_future()
        self.stopped = False
        self.answered_in_time = 0

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
        if self._agent:
            message = _decode(frame.get_payload_as_bytes())
            if isinstance(message, Welcome):
                self.ready.set_result(None)
                return
            if isinstance(message, WindowUpdate):
                return  # never below what is outstanding here
            if not isinstance(message, Ack):
                raise SystemExit(f"the server sent {message}")
            self._answered = message.seq
        else:
            self._answered += 1
        self.fill()

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """It must not end before we do."""
        if not self.stopped:
            raise SystemExit("the server closed a connection")

    def fill(self) -> None:
        """Send until so many batches are on their way."""
        if self.stopped or self._transport is None:
            return
        while self._seq - self._answered < OUTSTANDING:
            self._seq += 1
            self._transport.send(picows.WSMsgType.TEXT, self._frame())

    def stop(self) -> int:
        """Send no more; returns how many batches were answered."""
        self.stopped = True
        if self._transport is not None:
            self._transport.disconnect()
        return self._answered

    def _frame(self) -> bytes:
        # Times rise by a millisecond a batch, from an hour ago: nothing is in the future, however many there are.
        at = time.time_ns() // 1000 - 3_600_000_000 + self._seq * 1000
        metrics = tuple(
            Metric(ref=ref, cpu=12.5, mem=104_857_600, rx=self._seq * 1000, tx=self._seq * 500)
            for ref in range(self._containers)
        )
        return encode(Batch(seq=self._seq, oldest=1, at=at, metrics=metrics))


async def drive(url: str, seconds: float, containers: int, ready: Path) -> dict[str, float]:
    """Connect, drive, count: messages answered, and the seconds it took."""
    agent = url.endswith("/ws/agent")
    listeners = []
    for token in os.environ["BENCH_TOKENS"].split(","):
        headers = {"Authorization": f"Bearer {token}"} if agent else {}
        if agent:
            headers["Sec-WebSocket-Protocol"] = AGENT_SUBPROTOCOL
        listener = Connection(containers, agent=agent)
        await picows.ws_connect(lambda listener=listener: listener, url, extra_headers=headers)
        async with asyncio.timeout(10):
            await listener.ready
        listeners.append(listener)
    for listener in listeners:
        listener.fill()
    await asyncio.to_thread(ready.touch)
    started = time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - started
    answered = sum(listener.stop() for listener in listeners)
    return {"messages": answered, "seconds": took}


if __name__ == "__main__":
    target = Path(sys.argv[4])
    counts = uvloop.run(drive(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), target.with_suffix(".ready")))
    target.write_text(json.dumps(counts))
