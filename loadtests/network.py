"""The network between the fleet and the server, where a scenario breaks it: a proxy in a process of its own.

The runner compares rows meanwhile, and would hold bytes back that nobody meant to withhold. It tells the process what to
do over a control port: a connection per command, one line of JSON each way.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

import msgspec
import uvloop
from msgspec import Struct

from loadtests.children import Child, ChildError, python
from loadtests.proxy import HOST, Proxy
from loadtests.stage import outer_environment
from server.db.embedded import free_port

START_TIMEOUT_SECONDS = 30.0
ASK_TIMEOUT_SECONDS = 10.0


class Command(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the proxy is asked to do. It answers when it is done."""

    withhold: bool | None = None
    """Begin, or end."""
    reset: float = 0.0
    """Share of the open connections."""


class Carried(Struct, frozen=True, kw_only=True):
    """What the proxy has done so far."""

    connections: int = 0
    """Open now."""
    resets: int = 0
    withheld_bytes: int = 0


class Network:
    """The proxy of a run.

    Args:
        upstream: port of the server.
        seed: of what it chooses.
        log: of its process.
    """

    def __init__(self, upstream: int, seed: int, log: Path) -> None:
        self.port, self._control = free_port(), free_port()
        self.carried = Carried()
        arguments = [str(number) for number in (upstream, self.port, self._control, seed)]
        self.child = Child("network", python("loadtests.network", *arguments), outer_environment(), log)

    @property
    def ws(self) -> str:
        """The base URL of the server's sockets, through the proxy."""
        return f"ws://{HOST}:{self.port}"

    async def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            ChildError: it did not in time.
        """
        await self.child.start()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while True:
            try:
                await self.ask(Command())
            except ChildError:
                if not self.child.running or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
            else:
                return

    async def ask(self, command: Command) -> Carried:
        """Let it do something.

        Raises:
            ChildError: it does not answer.
        """
        try:
            async with asyncio.timeout(ASK_TIMEOUT_SECONDS):
                reader, writer = await asyncio.open_connection(HOST, self._control)
                try:
                    writer.write(msgspec.json.encode(command) + b"\n")
                    self.carried = msgspec.json.decode(await reader.readline(), type=Carried)
                finally:
                    writer.close()
        except (OSError, msgspec.DecodeError) as error:
            raise self.child.failure(f"does not answer: {type(error).__name__}: {error}") from None
        return self.carried


async def serve(upstream: int, port: int, control: int, seed: int) -> None:
    """Carry, and do as the control port is told, until killed."""
    async with Proxy(upstream, port=port, seed=seed) as proxy:

        async def obey(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                async with asyncio.timeout(ASK_TIMEOUT_SECONDS):
                    command = msgspec.json.decode(await reader.readline(), type=Command)
                    _do(proxy, command)
                    carried = Carried(
                        connections=proxy.connections, resets=proxy.resets, withheld_bytes=proxy.withheld_bytes
                    )
                    writer.write(msgspec.json.encode(carried) + b"\n")
                    await writer.drain()
            except (OSError, ValueError, msgspec.DecodeError) as error:
                sys.stderr.write(json.dumps({"refused": str(error)}) + "\n")
            finally:
                writer.close()

        listening = await asyncio.start_server(obey, HOST, control, limit=4096)
        await listening.serve_forever()


def _do(proxy: Proxy, command: Command) -> None:
    if command.withhold is True:
        proxy.withhold()
    elif command.withhold is False:
        proxy.release()
    if command.reset:
        proxy.reset(command.reset)


if __name__ == "__main__":
    uvloop.run(serve(*map(int, sys.argv[1:])))
