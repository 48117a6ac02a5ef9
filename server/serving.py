"""Uvicorn as we run it: guarded protocols, and a shutdown that flushes before it closes sockets.

SIGTERM: stop accepting, `drain` to every agent, flush, last acks, 1012, lifespan shutdown, exit 0. SIGINT the same, exit 130.
"""

import asyncio
import gc
import logging
import signal
import socket
from types import FrameType

import uvicorn

from server.app import Service, create_app
from server.db.writer import Seam
from server.errors import StartupError
from server.settings import Settings
from server.ws.direct import DirectWebSocket
from server.ws.guard import GuardedHttp

GRACE_SECONDS = 5
"""After the drain: time for peers to answer 1012 and for requests to end."""
KEEP_ALIVE_SECONDS = 75
"""An HTTP connection may rest so long: longer than a proxy's 60 s (nginx, most load balancers), or a request that is sent just
when we close it gets no answer."""
GC_THRESHOLDS = (500_000, 20, 100)
"""When the collector runs: objects made since the last time, and how often a younger generation comes before an older one.

Python's own (700, 10, 10) walk what lives long again and again: little that is made per message is in a cycle, and much of
it lives until its COMMIT. With 3,000 agents of 10 containers `bench ingest` told an ack p99 of 1.5 s, and 0.26 s with these.
"""
_log = logging.getLogger("seatrial.serving")


class DrainingServer(uvicorn.Server):
    """A uvicorn server that drains the application while its sockets are still open."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self.owns_process = False
        """Whether the process is ours alone, so that its garbage collector may be tuned."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; what lives by then lives long, and the collector need not look at it again."""
        await super().startup(sockets)
        if self.owns_process:
            gc.collect()
            gc.freeze()
            gc.set_threshold(*GC_THRESHOLDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listeners, drain, then what uvicorn does."""
        for server in self.servers:
            server.close()
        try:
            await self._service.drain()
        except Exception:  # noqa: BLE001 - sockets must be closed and the lifespan ended all the same
            _log.exception("drain failed")
        await super().shutdown(sockets)

    @property
    def port(self) -> int:
        """The port that is listened on, once started."""
        return int(self.servers[0].sockets[0].getsockname()[1])


def make_server(settings: Settings, seam: Seam | None = None) -> DrainingServer:
    """A server ready to `serve()`."""
    app = create_app(settings, seam)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=GuardedHttp,
        ws=DirectWebSocket,
        loop="uvloop",
        ws_max_size=settings.frame_bytes,
        ws_per_message_deflate=False,
        ws_ping_interval=settings.ping_interval_seconds,
        ws_ping_timeout=settings.ping_timeout_seconds,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        lifespan="on",
    )
    return DrainingServer(config, app.state.service)


def run(settings: Settings, seam: Seam | None = None) -> int:
    """Serve until a signal; returns the exit code: 0 after SIGTERM, 130 after SIGINT, 3 if it could not start.

    `seam` as in `server.app.create_app`.
    """
    received: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    # Uvicorn raises what it caught again once it is done: it meets these, not the default that would kill us.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, remember)
    server = make_server(settings, seam)
    server.owns_process = True
    service: Service = server.config.app.state.service  # type: ignore[union-attr]
    try:
        server.run()
    except SystemExit:
        return 3
    if service.failed:
        return 1
    return 130 if signal.SIGINT in received else 0


async def serve_until(server: DrainingServer, stop: asyncio.Event) -> None:
    """For tests and embedding: serve in this loop until `stop` is set, signals untouched.

    Raises:
        StartupError: the server could not start; the log says why.
    """
    try:
        serving = asyncio.create_task(server._serve())  # noqa: SLF001 - `serve` without its signal handlers
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        stopping.cancel()
        await serving
    except SystemExit as error:
        raise StartupError("the server did not start") from error
