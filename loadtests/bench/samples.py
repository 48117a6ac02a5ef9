"""Packed samples as lanes store them, on a timeline that is made up: the same for each strategy and each run of a seed."""

import random
from collections.abc import Iterable, Iterator
from typing import Final

from server.rows import metric_head, pack_metric, pack_time

SECOND_US: Final = 1_000_000
T0: Final = 1_800_000_000 * SECOND_US
"""Where the timeline begins, Unix microseconds: whole for every step of a chart."""
ROWS_PER_COPY: Final = 10_000
"""About what a lane gathers in 100 ms at 100,000 rows/s."""


def container_ids(seed: int, count: int) -> list[int]:
    """Ids of containers by chance. Of the same seed a longer list begins with a shorter one."""
    chance = random.Random(seed)
    return [chance.getrandbits(63) for _ in range(count)]


class Samples:
    """A sample of each container a second."""

    def __init__(self, container_ids: Iterable[int]) -> None:
        self._heads = [metric_head(container_id) for container_id in container_ids]

    def second(self, number: int) -> Iterator[list[bytes]]:
        """What a lane would flush of the second that begins so many after T0, sorted by key within each flush."""
        at = pack_time(T0 + number * SECOND_US)
        for start in range(0, len(self._heads), ROWS_PER_COPY):
            heads = self._heads[start : start + ROWS_PER_COPY]
            yield sorted(pack_metric(head, at, 1.5, number << 20, number * 997, number * 499) for head in heads)
