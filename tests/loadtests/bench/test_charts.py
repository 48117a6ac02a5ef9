"""Charts that are read while samples are written, on a Postgres that is not ours."""

import random
from pathlib import Path

import asyncpg
import pytest

from loadtests.bench.chart_load import LEAST_SHARE, weaknesses
from loadtests.bench.chart_reads import END, SHAPES, Reader, Taken, quantiles
from loadtests.bench.chart_writer_plan import Written
from loadtests.bench.charts import Options, run
from server.db.storage.base import NOT_ROLLED, Rolled
from server.db.storage.plain import PlainStorage
from server.reads import ChartBucket


class Noting(PlainStorage):
    """Keeps what was asked of it, and answers nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int, int, Rolled]] = []

    async def chart(
        self,
        connection: asyncpg.Connection,
        container_ids: object,
        since: int,
        until: int,
        step_us: int,
        rolled: Rolled = NOT_ROLLED,
    ) -> list[ChartBucket]:
        """Nothing."""
        self.asked.append((since, until, step_us, rolled))
        return []


def written(rows: int, *, seconds: float = 10.0, cpu_seconds: float = 1.0) -> Written:
    """What a writer found."""
    return Written(rows=rows, seconds=seconds, cpu_seconds=cpu_seconds, next_second=1)


async def test_charts_are_read_at_half_load(postgres_dsn: str, tmp_path: Path) -> None:
    """With ranges: every kind has its quantiles twice, and a Postgres that is not ours is not restarted for cold ones."""
    report = await run(
        Options(strategy="partitioned", containers=2, hours=1, charts=10, load_seconds=1.0, database_url=postgres_dsn),
        tmp_path,
    )

    found = {figure.name: figure for figure in report.figures}
    for shape in SHAPES:
        idle, loaded = [found[f"chart_{shape.name}{condition}_p99"] for condition in ("", "_half_load")]
        assert idle.value
        assert idle.note == f"{10 // shape.every} charts"
        assert loaded.value
        cold = found[f"chart_{shape.name}_cold"]
        assert cold.value is None
        assert "not restarted" in cold.note
    assert report.value("write_full") > 0
    assert report.value("write_half") > 0


async def test_rounds_read_every_shape_and_the_slow_ones_less_often() -> None:
    """Ranges end where the samples do, only two shapes read the rollup, and what ended too late does not count."""
    storage, rolled = Noting(), Rolled(1, 2)
    connection: asyncpg.Connection = None  # type: ignore[assignment]  # nothing is asked of it
    reader = Reader(storage, connection, rolled)

    taken = await reader.rounds([1, 2], random.Random(1), lambda number: number < 20)

    assert {shape.name: len(taken[shape.name]) for shape in SHAPES} == {
        shape.name: 20 // shape.every for shape in SHAPES
    }
    assert {until for _, until, _, _ in storage.asked} == {END}
    assert {(END - since) // 1_000_000 for since, _, _, rolled in storage.asked if rolled != NOT_ROLLED} == {
        21_600,
        86_400,
    }
    assert len(storage.asked) == sum(map(len, taken.values())) + 1


def test_quantiles_of_what_was_read() -> None:
    """The middle and the 99th of a hundred; of nothing there is no figure, and the note says why."""
    taken: Taken = {"a": [float(n) for n in range(100)], "b": []}
    found = {figure.name: (figure.value, figure.note) for figure in quantiles(taken, "_x")}

    assert found == {
        "chart_a_x_p50": (50.0, "100 charts"), "chart_a_x_p99": (99.0, "100 charts"),
        "chart_b_x_p50": (None, "0 charts"), "chart_b_x_p99": (None, "0 charts"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("full", "half", "expected"),
    [
        (written(10_000), written(round(5_000 * LEAST_SHARE)), []),
        (written(10_000), written(round(5_000 * LEAST_SHARE) - 10), ["beside the charts 449 rows/s"]),
        (written(10_000, cpu_seconds=9.0), written(5_000), ["writer at full load used 90%"]),
        (written(10_000), written(5_000, cpu_seconds=9.0), ["writer at half load used 90%"]),
    ],
)
def test_another_load_than_half_is_named(full: Written, half: Written, expected: list[str]) -> None:
    """A writer that fell behind, or that was the bottleneck itself, makes the figures worthless."""
    found = weaknesses(full, half)

    assert len(found) == len(expected)
    for sentence, part in zip(found, expected, strict=True):
        assert part in sentence
