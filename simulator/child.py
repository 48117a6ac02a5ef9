"""One process of a fleet that has several; `simulator.processes` is the parent.

    python -m simulator.child    (see `simulator.child_messages`)

A child whose parent is gone stops in order, like one that gets SIGTERM.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import uvloop

from simulator.child_messages import Done, Go, Job, Ready, Said, Second
from simulator.fleet import Fleet
from simulator.report import report
from simulator.running import until_stopped
from simulator.status import status

MAX_WAITING_BYTES = 1 << 20
"""What may wait for a parent that does not read; then seconds are left out."""
_LEDGER_FAILED = 3


async def main() -> int:
    """Do the job of standard input; the exit code."""
    loop = asyncio.get_running_loop()
    control = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(control), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    output = asyncio.StreamWriter(transport, protocol, None, loop)
    job = msgspec.json.decode(await control.readline(), type=Job)
    watches: list[asyncio.Task[None]] = []

    def say(message: Said) -> None:
        if not transport.is_closing():  # the parent is gone
            output.write(msgspec.json.encode(message) + b"\n")

    def second(fleet: Fleet) -> None:
        if not transport.is_closing() and transport.get_write_buffer_size() < MAX_WAITING_BYTES:
            say(Second(status=status(fleet)))

    async def begin() -> int:
        say(Ready())
        line = await control.readline()
        watches.append(loop.create_task(_stop_with_parent(control)))
        return msgspec.json.decode(line, type=Go).start_us if line else fleet.now_us()

    ledger = None if job.ledger is None else Path(job.ledger)
    fleet = Fleet(job.plan, ledger, second, owns_process=True, begin=begin)
    try:
        await until_stopped(fleet.run)
    except OSError as error:
        sys.stderr.write(f"ledger = {ledger}: {error.strerror or error}: expected a file that can be written\n")
        return _LEDGER_FAILED
    finally:
        for watch in watches:
            watch.cancel()
    say(Done(report=report(fleet)))
    with suppress(ConnectionError):
        await output.drain()
    return 0


async def _stop_with_parent(control: asyncio.StreamReader) -> None:
    """Nothing more is said to a child: its input ends only with its parent."""
    await control.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
