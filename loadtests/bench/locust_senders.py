"""Locust's part of `bench simulator`: users that send a batch a second, as a load test written with Locust would.

    SEATRIAL_FRAME=frame.json locust -f loadtests/bench/locust_senders.py --headless --host ws://127.0.0.1:9000

Each user has a socket of websocket-client, writes its batch as JSON with seq and time of its own, waits for the ack, and
reports the time that took to Locust. `python -m locust` patches the standard library: never import this beside asyncio.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from locust import User, constant_pacing, task
from websocket import WebSocket, create_connection

from server.protocol.messages import AGENT_SUBPROTOCOL

_TIMEOUT_SECONDS = 10.0
_FRAME = Path(os.environ["SEATRIAL_FRAME"]).read_text()


class Sender(User):  # type: ignore[misc, unused-ignore]
    """One agent's sends."""

    wait_time = constant_pacing(1)

    def on_start(self) -> None:
        """Connect."""
        self._batch: dict[str, Any] = json.loads(_FRAME)
        self._batch["seq"] = 0
        self._socket: WebSocket = create_connection(
            self.host, timeout=_TIMEOUT_SECONDS, subprotocols=[AGENT_SUBPROTOCOL]
        )

    def on_stop(self) -> None:
        """Leave."""
        self._socket.close()

    @task  # type: ignore[untyped-decorator, unused-ignore]
    def send(self) -> None:
        """Send a batch and wait for its ack."""
        begun = time.perf_counter()
        self._batch["seq"] += 1
        self._batch["at"] = time.time_ns() // 1000
        frame = json.dumps(self._batch, separators=(",", ":"))
        self._socket.send(frame)
        answer = json.loads(self._socket.recv())
        error = None if answer["seq"] == self._batch["seq"] else ValueError(f"ack of {answer['seq']}")
        self.environment.events.request.fire(
            request_type="WS", name="batch", response_time=(time.perf_counter() - begun) * 1000,
            response_length=len(frame), exception=error, context={},
        )  # fmt: skip
