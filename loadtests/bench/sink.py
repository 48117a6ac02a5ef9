"""The other end of `bench simulator`: a picows server that counts batches and acknowledges them, and does nothing else.

    python -m loadtests.bench.sink PORT

It reads of a batch only its seq, and sends each connection one cumulative ack every 100 ms, as the server does. Who says
hello is welcomed; who does not is served all the same. GET `/count` tells how many batches have come.
"""

import asyncio
import gc
import sys
import time

import picows
import uvloop

from server.protocol.codec import decode_agent_message, encode
from server.protocol.messages import (
    AGENT_SUBPROTOCOL,
    Ack,
    AgentHeartbeat,
    Clock,
    HeartbeatEcho,
    Hello,
    Limits,
    Welcome,
    Window,
)

ACK_SECONDS = 0.1
COUNT_PATH = "/count"
_BATCH = b'{"type":"batch","seq":'


class Tally:
    """What all connections got, and who waits for an ack."""

    def __init__(self) -> None:
        self.batches = 0
        self.owed: list[Agent] = []

    async def acknowledge(self) -> None:
        """Send what is owed, until cancelled."""
        while True:
            await asyncio.sleep(ACK_SECONDS)
            owed, self.owed = self.owed, []
            for agent in owed:
                agent.acknowledge()


class Agent(picows.WSListener):
    """A connection that sends batches."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._transport: picows.WSTransport | None = None
        self._seq = self._acked = 0

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """It is there."""
        self._transport = transport

    def on_ws_disconnected(self, _: picows.WSTransport) -> None:
        """It is gone."""
        self._transport = None

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """A frame came."""
        if frame.msg_type == picows.WSMsgType.TEXT:
            data = frame.get_payload_as_bytes()
            if data.startswith(_BATCH):
                self._tally.batches += 1
                if self._seq == self._acked:
                    self._tally.owed.append(self)
                self._seq = int(data[len(_BATCH) : data.index(b",", len(_BATCH))])
            else:
                _answer(transport, data)
        elif frame.msg_type == picows.WSMsgType.CLOSE:
            transport.send_close(picows.WSCloseCode.OK)  # whatever code came: 1005 may not be sent
            transport.disconnect()

    def acknowledge(self) -> None:
        """Everything so far."""
        self._acked = self._seq
        if self._transport is not None:
            self._transport.send(picows.WSMsgType.TEXT, encode(Ack(seq=self._seq)))


def _answer(transport: picows.WSTransport, data: bytes) -> None:
    now_us = time.time_ns() // 1000
    match decode_agent_message(data).message:
        case Hello():
            welcome = Welcome(
                session="sink", server_time=now_us, acked_seq=0, window=Window(batches=64, bytes=4 << 20),
                heartbeat_seconds=10, clock=Clock(earliest=0, latest=2**62),
                limits=Limits(frame_bytes=1 << 20, containers=10_000, labels_bytes=16_384, log_text_bytes=16_384),
            )  # fmt: skip
            transport.send(picows.WSMsgType.TEXT, encode(welcome))
        case AgentHeartbeat(at=at):
            transport.send(picows.WSMsgType.TEXT, encode(HeartbeatEcho(at=at, server_time=now_us)))


async def serve(port: int) -> None:
    """Serve until killed."""
    tally = Tally()
    headers = {"Sec-WebSocket-Protocol": AGENT_SUBPROTOCOL}

    def listen(request: picows.WSUpgradeRequest) -> picows.WSUpgradeResponseWithListener:
        agent = Agent(tally)
        if request.path == COUNT_PATH.encode():
            response = picows.WSUpgradeResponse.create_ok_response(str(tally.batches).encode())
        elif "Sec-WebSocket-Protocol" in request.headers:
            response = picows.WSUpgradeResponse.create_101_response(headers)
        else:
            response = picows.WSUpgradeResponse.create_101_response()
        return picows.WSUpgradeResponseWithListener(response, agent)

    server = await picows.ws_create_server(listen, "127.0.0.1", port, backlog=4096)
    gc.freeze()
    async with asyncio.TaskGroup() as group:
        group.create_task(tally.acknowledge())
        group.create_task(server.serve_forever())


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
