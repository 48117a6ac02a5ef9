"""`seatrial record`."""

import asyncio
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from simulator.recording import RecordingWriter

_USAGE, _ENVIRONMENT = 2, 3
_TELL_SECONDS = 5.0


def record(
    to: Annotated[str, typer.Option(help="The server: ws://host:port.")],
    out: Annotated[Path, typer.Option(help="Write what agents send to this new file.")],
    listen: Annotated[
        str, typer.Option(help="Where agents connect: host:port; port 0 takes a free one.")
    ] = "127.0.0.1:8001",
    i_own_this: Annotated[bool, typer.Option("--i-own-this", help="Allow a server on another machine.")] = False,
) -> None:
    """Stand between agents and their server, and record what the agents send, until SIGINT or SIGTERM.

    Tokens are passed on and never stored; log lines are stored as the agents sent them. `seatrial simulate --replay FILE`
    sends it again. Exit code: 0 stopped, 2 wrong usage, 3 the address cannot be had or the file not be written.
    """
    from simulator.errors import PlanError
    from simulator.plan import server_url
    from simulator.recording import RecordingWriter

    try:
        host, port = _address(listen)
        url = server_url(to, field="to", any_host=i_own_this)
        if not out.parent.is_dir() or out.exists():
            raise PlanError("out", out, "a file that does not exist yet, in a directory that exists")
    except PlanError as error:
        _fail(_USAGE, str(error))
    try:
        writer = RecordingWriter(out, time.time_ns() // 1000)
        try:
            asyncio.run(_record(host, port, url, writer))
        finally:
            writer.close()
    except OSError as error:
        _fail(_ENVIRONMENT, f"listen = {listen}, out = {out}: {error.strerror or error}")
    _say(f"{writer.frames} frames of {writer.frame_bytes} bytes in {out}")


async def _record(host: str, port: int, url: str, writer: "RecordingWriter") -> None:
    """Until a signal.

    Raises:
        OSError: the address cannot be had, or the recording not be written.
    """
    from simulator.recorder import recording

    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for which in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(which, stopped.set)
    async with recording(host, port, url, writer) as (recorder, server):
        place = server.sockets[0].getsockname()
        _say(f"recording on ws://{place[0]}:{place[1]}, passing on to {url}")
        ends = [asyncio.ensure_future(event.wait()) for event in (stopped, recorder.failed)]
        while not any(end.done() for end in ends):
            await asyncio.wait(ends, timeout=_TELL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            _say(f"{recorder.open_connections} agents connected, {writer.frames} frames of {writer.frame_bytes} bytes")
        for end in ends:
            end.cancel()
    if recorder.error is not None:
        raise recorder.error


def _address(listen: str) -> tuple[str, int]:
    """Host and port.

    Raises:
        PlanError: it is none.
    """
    from simulator.errors import PlanError

    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise PlanError("listen", listen, "host:port, such as 127.0.0.1:8001")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _fail(code: int, message: str) -> NoReturn:
    _say(message)
    raise typer.Exit(code)
