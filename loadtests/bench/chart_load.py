"""Charts at half load: how fast one writer can store samples, then the same charts beside it at half of that rate."""

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace

from loadtests.bench.chart_reads import Reader, quantiles
from loadtests.bench.chart_writer_plan import WriterPlan, Written
from loadtests.bench.figures import Figure
from loadtests.bench.planned_process import PlannedProcess, busy
from loadtests.bench.samples import SECOND_US, T0
from loadtests.stage import StageError

LOAD_SHARE = 0.5
LEAST_SHARE = 0.9
"""Of the rate that is wanted: a writer that does not reach it is another load than half."""
BEGIN_SECONDS = 30.0
END_SECONDS = 90.0
"""Beyond its time: one statement at most, and to start and to write."""
_LOOK_SECONDS = 0.05


async def at_half_load(
    reader: Reader, container_ids: Sequence[int], chance: random.Random, plan: WriterPlan, dsn: str, directory: Path
) -> tuple[list[Figure], list[str]]:
    """Write as fast as it goes, then at half of that while charts are read.

    Args:
        reader: of the charts.
        container_ids: of which charts are read, the first of the plan's seed.
        chance: chooses among them.
        plan: of the writing that is as fast as it can be. Both take its `seconds`.
        dsn: of the database.
        directory: gets the writers' files.

    Returns:
        The figures, and why they are worthless; none: they stand.

    Raises:
        StageError, ChildError: a writer failed.
    """
    writer = _writer(plan, dsn, directory, "writer-full")
    await writer.start()
    try:
        full = await writer.found(plan.seconds + END_SECONDS)
    finally:
        await writer.child.stop()
    rate = LOAD_SHARE * full.rows_per_second
    half_plan = replace(plan, first_second=full.next_second, rows_per_second=rate)
    writer = _writer(half_plan, dsn, directory, "writer-half")
    await writer.start()
    try:
        await _begun(reader, container_ids[0], half_plan, writer)
        deadline = asyncio.get_running_loop().time() + plan.seconds + END_SECONDS
        taken = await reader.rounds(
            container_ids, chance, lambda _: writer.child.running and asyncio.get_running_loop().time() < deadline
        )
        half = await writer.found(END_SECONDS)
    finally:
        await writer.child.stop()
    figures = [
        Figure(name="write_full", value=full.rows_per_second, unit="rows/s",
               note=f"{full.rows:,} rows by one writer, packing included; nothing else running"),
        Figure(name="write_half", value=half.rows_per_second, unit="rows/s",
               note=f"beside the charts, in {half.seconds:.0f} s; {rate:,.0f} were wanted"),
        *quantiles(taken, "_half_load"),
    ]  # fmt: skip
    return figures, weaknesses(full, half)


def weaknesses(full: Written, half: Written) -> list[str]:
    """Why what was read beside the second writer says nothing of half of the first one's load; empty: it does."""
    found = []
    wanted = LOAD_SHARE * full.rows_per_second
    if half.rows_per_second < LEAST_SHARE * wanted:
        found.append(
            f"beside the charts {half.rows_per_second:,.0f} rows/s were stored: expected {wanted:,.0f}, half of what one"
            f" writer can, or {LEAST_SHARE:.0%} of it at least"
        )
    found += busy("writer at full load", full.cpu_seconds, full.seconds)
    return found + busy("writer at half load", half.cpu_seconds, half.seconds)


def _writer(plan: WriterPlan, dsn: str, directory: Path, name: str) -> PlannedProcess[Written]:
    return PlannedProcess(
        "loadtests.bench.chart_writer", plan, Written, {"SEATRIAL_DATABASE_URL": dsn}, directory, name
    )


async def _begun(reader: Reader, container_id: int, plan: WriterPlan, writer: PlannedProcess[Written]) -> None:
    """Wait for the writer's first rows.

    Raises:
        StageError, ChildError: there were none in time, or it ended.
    """
    try:
        async with asyncio.timeout(BEGIN_SECONDS):
            while not await reader.has_samples(container_id, T0 + plan.first_second * SECOND_US):
                if not writer.child.running:
                    raise writer.child.failure(f"ended with exit code {writer.child.exit_code} before it wrote")
                await asyncio.sleep(_LOOK_SECONDS)
    except TimeoutError:
        raise StageError(f"{writer.child.name} stored nothing within {BEGIN_SECONDS:g} s") from None
