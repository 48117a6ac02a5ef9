"""A fleet from its start to its end, in this process or in several, stopped in order by a signal."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from simulator.plan import Plan
    from simulator.status import Status


class Outcome(NamedTuple):
    """How it ended."""

    received: list[signal.Signals]
    """In order."""
    report: dict[str, Any] | None
    """None: it was stopped before there was anything to report."""
    failures: list[str]
    """Why it is not whole; empty: it is."""


async def until_stopped(run: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> list[signal.Signals]:
    """Run something; the first SIGINT or SIGTERM stops it in order, a second one cuts that short.

    Args:
        run: called with the event that asks it to stop in order; cancelled by a second signal.

    Returns:
        The signals that came, in order.

    Raises:
        Exception: what it raised.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    received: list[signal.Signals] = []
    running = loop.create_task(run(stop))

    def on_signal(which: signal.Signals) -> None:
        if received:
            running.cancel()
        received.append(which)
        stop.set()

    signals = signal.SIGINT, signal.SIGTERM
    for which in signals:
        loop.add_signal_handler(which, on_signal, which)
    try:
        await running
    except asyncio.CancelledError:
        if not received:
            raise
    finally:
        for which in signals:
            loop.remove_signal_handler(which)
    return received


def run_here(plan: "Plan", ledger: Path | None, start_us: int | None, tell: Callable[["Status"], None]) -> Outcome:
    """The fleet in this process, which has nothing else to do.

    Args:
        plan: what it shall be.
        ledger: file for its ledger.
        start_us: of its timeline, Unix microseconds; None: as soon as it is built.
        tell: called about once a second.

    Raises:
        OSError: the ledger cannot be written.
    """
    import uvloop

    from simulator.fleet import Fleet
    from simulator.report import report
    from simulator.status import status

    async def begin() -> int:
        return fleet.now_us() if start_us is None else start_us

    fleet = Fleet(plan, ledger, lambda fleet: tell(status(fleet)), owns_process=True, begin=begin)
    return Outcome(uvloop.run(until_stopped(fleet.run)), report(fleet), [])


def run_processes(
    plan: "Plan", processes: int, ledger: Path | None, start_us: int | None, tell: Callable[["Status"], None]
) -> Outcome:
    """The fleet in processes of its own; see `run_here`.

    Raises:
        PlanError: it cannot be split so.
        OSError: a process cannot be started.
    """
    from simulator.merge import add_reports
    from simulator.processes import Processes

    fleet = Processes(plan, processes, ledger, tell, start_us)
    received = asyncio.run(until_stopped(fleet.run))
    return Outcome(received, add_reports(fleet.reports) if fleet.reports else None, fleet.failures)
