"""The charts that `bench charts` reads: their shapes, one reader of them, and what it tells of the time they took."""

import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from loadtests.bench.figures import Figure
from loadtests.bench.samples import SECOND_US, T0
from server.db.storage.base import NOT_ROLLED, Rolled, Storage
from server.reads import MINUTE_US

END = T0
"""When the samples end that charts show; what is written beside them comes after."""
Taken = Mapping[str, Sequence[float]]
"""Milliseconds of each chart that was read, by the name of its shape."""


class Shape(NamedTuple):
    """A range, its step, and where its buckets come from."""

    name: str
    seconds: int
    step_seconds: int
    rolled: bool
    """Whether it reads the rollup."""
    every: int = 1
    """It is read in one of so many rounds: what the rollup spares takes long."""


SHAPES = (
    Shape("15m_raw", 900, 5, rolled=False),
    Shape("1h_raw", 3600, 10, rolled=False),
    Shape("6h_rollup", 21_600, 60, rolled=True),
    Shape("6h_raw", 21_600, 60, rolled=False, every=10),
    Shape("24h_rollup", 86_400, 240, rolled=True),
    Shape("24h_raw", 86_400, 240, rolled=False, every=10),
)


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads charts of one container each, one after the other, over one connection."""

    storage: Storage
    connection: asyncpg.Connection
    rolled: Rolled
    """What the rollup has."""

    async def chart_ms(self, shape: Shape, container_id: int) -> float:
        """One chart that ends at `END`, from the call to its buckets, in milliseconds."""
        since, step_us = END - shape.seconds * SECOND_US, shape.step_seconds * SECOND_US
        rolled = self.rolled if shape.rolled else NOT_ROLLED
        started = time.perf_counter()
        await self.storage.chart(self.connection, [container_id], since, END, step_us, rolled)
        return (time.perf_counter() - started) * 1e3

    async def has_samples(self, container_id: int, since: int) -> bool:
        """Whether there are samples of a container in the minute from `since`, Unix microseconds."""
        return bool(await self.storage.chart(self.connection, [container_id], since, since + MINUTE_US, MINUTE_US))

    async def rounds(self, container_ids: Sequence[int], chance: random.Random, wanted: Callable[[int], bool]) -> Taken:
        """Charts of every shape in turn, a container by chance each, while `wanted` says so of a round's number, from 0.

        It is asked after each chart: one that ended when no more were wanted does not count.
        """
        taken: dict[str, list[float]] = {shape.name: [] for shape in SHAPES}
        for number in itertools.count():
            for shape in SHAPES:
                if number % shape.every == 0:
                    took = await self.chart_ms(shape, chance.choice(container_ids))
                    if not wanted(number):
                        return taken
                    taken[shape.name].append(took)
        raise AssertionError("rounds are endless")


def quantiles(taken: Taken, condition: str = "") -> list[Figure]:
    """Median and 99th percentile of each shape.

    Args:
        taken: by shape.
        condition: under which they were read, a part of the figures' names: "_half_load".
    """
    figures = []
    for name, values in taken.items():
        note = f"{len(values):,} charts"
        for quantile, share in (("p50", 50), ("p99", 99)):
            value = sorted(values)[len(values) * share // 100] if values else None
            figures.append(Figure(name=f"chart_{name}{condition}_{quantile}", value=value, unit="ms", note=note))
    return figures
