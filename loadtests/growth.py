"""Whether tables are bounded: how much each grew from window to window once the first one was full. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from loadtests.measure import Series

ROWS, TABLE_BYTES, INDEX_BYTES, DEAD_ROWS, OLDEST_ROW_AGE = (
    "rows", "table_bytes", "index_bytes", "dead_rows", "oldest_row_age_s",
)  # fmt: skip
METRICS: Mapping[str, str] = {
    ROWS: "table_rows_growth",
    TABLE_BYTES: "table_bytes_growth",
    INDEX_BYTES: "index_bytes_growth",
    DEAD_ROWS: "dead_rows_growth",
    OLDEST_ROW_AGE: "oldest_row_age_growth",
}
"""What is looked at of each table, and the metric that holds its largest growth over all tables."""
FEWEST_PARTS = 4
"""Parts of the time after the first window; of fewer a line says nothing. More where more windows fit."""
_LEAST_ROWS, _LEAST_DEAD_ROWS, _LEAST_BYTES = 1_000.0, 10_000.0, float(16 << 20)
"""A table below this size is held to it. Ten rows more in a table of ten are no leak that a run could tell from chance, and
the indexes of a small one take a few windows to settle. A leak of half a MiB a window still shows as 0.1 over four. Autovacuum
leaves 50 dead rows alone and looks once a minute by default, so a row that is updated each second has a hundred at times."""

Looked = Mapping[tuple[str, str], Series]
"""By table, and what is looked at of it."""


class Growth(Struct, frozen=True, kw_only=True):
    """How one figure of one table went on after the first window."""

    table: str
    what: str
    """`rows`, `table_bytes`, `index_bytes`, `dead_rows` or `oldest_row_age_s`."""
    means: tuple[float, ...]
    """Its mean in each part of the time, over all looks of that part; 0 in those that did not find the table."""
    growth: float
    """What it rose by from the first part to the last, by the straight line through all of them, as a share of its size.

    Dead rows as a share of the table's rows where those are more, an age as a share of the retention.
    """


class Steady(NamedTuple):
    """The time after the first window, in Unix microseconds, in equal parts."""

    from_us: int
    until_us: int
    parts: int

    def window(self, part: int) -> tuple[int, int]:
        """Begin and end of a part; what happens at the end belongs to the next."""
        length = self.until_us - self.from_us
        return self.from_us + length * part // self.parts, self.from_us + length * (part + 1) // self.parts


def steady(
    started_us: int,
    ended_us: int,
    *,
    retention_seconds: float,
    backfill_seconds: float,
    prune_interval_seconds: float,
    not_before_us: int = 0,
) -> Steady | None:
    """The time of a load in which every table should stay as large as it is; None: too short for a line.

    It begins two prunings after the first window is full, and a tenth of what had to be filled later: whole ranges go by then.

    Args:
        started_us: begin of the load, Unix microseconds.
        ended_us: its end.
        retention_seconds: the window.
        backfill_seconds: what of it was filled before.
        prune_interval_seconds: a part is that long at least.
        not_before_us: when the rollup of a history was computed.
    """
    fills = 1.1 * max(0.0, retention_seconds - backfill_seconds) + 2 * prune_interval_seconds
    from_us = max(started_us + round(fills * 1e6), not_before_us)
    seconds = (ended_us - from_us) / 1e6
    if seconds < FEWEST_PARTS * prune_interval_seconds:
        return None
    return Steady(from_us, ended_us, max(FEWEST_PARTS, int(seconds / retention_seconds)))


def growths(looked: Looked, time: Steady, retention_seconds: float) -> list[Growth]:
    """How each figure of each table grew."""
    parts = {key: [series.between([time.window(part)]) for part in range(time.parts)] for key, series in looked.items()}
    looks = [max((one[part].count for one in parts.values()), default=0) for part in range(time.parts)]
    means = {
        (table, what): [
            # An empty table has no oldest row, and is there all the same.
            _mean_of(series, series.count if what == OLDEST_ROW_AGE else found)
            for series, found in zip(one, looks, strict=True)
        ]
        for (table, what), one in parts.items()
    }
    found = []
    for (table, what), values in means.items():
        rows = means.get((table, ROWS), ())
        size = {
            ROWS: max(_LEAST_ROWS, _mean(values)),
            DEAD_ROWS: max(_LEAST_DEAD_ROWS, _mean(values), _mean(rows)),
            OLDEST_ROW_AGE: retention_seconds,
        }.get(what, max(_LEAST_BYTES, _mean(values)))
        growth = _slope(values) * (len(values) - 1) / size
        found.append(Growth(table=table, what=what, means=tuple(values), growth=growth))
    return found


def largest(found: Iterable[Growth]) -> dict[str, float]:
    """By metric, the growth of the table that grew most."""
    grown: dict[str, float] = {}
    for one in found:
        name = METRICS[one.what]
        grown[name] = max(one.growth, grown.get(name, one.growth))
    return grown


def _mean_of(series: Series, looks: int) -> float:
    """Where a look did not find the table it was 0: a range about to be dropped is a table of its own for a moment."""
    return series.statistics()["mean"] * series.count / looks if series.count else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _slope(values: Sequence[float]) -> float:
    """Of the straight line through values at 0, 1, 2 ..., by least squares."""
    middle, mean = (len(values) - 1) / 2, _mean(values)
    rise = sum((place - middle) * (value - mean) for place, value in enumerate(values))
    return rise / sum((place - middle) ** 2 for place in range(len(values)))
