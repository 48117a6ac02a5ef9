"""Samples as stored, in numpy arrays of one record each: what is too slow as a tuple per row."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.host import FakeHost

SAMPLE: Final = np.dtype(
    [
        ("container_id", "<i8"),
        ("at", "<i8"),
        ("cpu", "<f4"),
        ("mem", "<i8"),
        ("rx", "<i8"),
        ("tx", "<i8"),
        ("nulls", "u1"),
    ]
)
"""A sample as stored; `at` in Unix microseconds, CPU in percent, the others in bytes.

`nulls` has a bit for each value that is null, which stands as 0 here: so equal rows have equal bytes.
"""

VALUES: Final = ("cpu", "mem", "rx", "tx")
"""The values that may be null; the first has the lowest bit of `nulls`."""


class Sample(NamedTuple):
    """One of them, with None for null."""

    container_id: int
    at: int
    cpu: float | None
    mem: int | None
    rx: int | None
    tx: int | None


Samples = NDArray[np.void]
"""An array of `SAMPLE`."""

NO_SAMPLES: Final[Samples] = np.empty(0, SAMPLE)


def samples_of(host: FakeHost, key_of: Callable[[int], int], ticks: range) -> tuple[Samples, NDArray[np.int64]]:
    """What a host samples in some ticks that follow one another, and the tick of each row.

    Args:
        host: makes the rows.
        key_of: the key of a container, by ref.
        ticks: by ones; the host's clock is not set between them.

    Returns:
        Rows by tick, then place on the host.
    """
    if not ticks:
        return NO_SAMPLES, np.empty(0, np.int64)
    refs, cpu, sizes = host.values_of(ticks)
    shape = refs.shape
    known, place = np.unique(refs, return_inverse=True)
    keys = np.array([key_of(ref) for ref in known.tolist()], np.int64)[place.reshape(shape)]
    tick = np.arange(ticks.start, ticks.stop)[:, np.newaxis]
    rows = rows_of_values(keys, host.at(ticks.start) + (tick - ticks.start) * host.interval_us, cpu, sizes)
    running = sizes[:, 0] >= 0
    return rows[running], np.broadcast_to(tick, shape)[running]


def rows_of_values(
    keys: NDArray[np.int64], at: NDArray[np.int64], cpu: NDArray[np.float64], sizes: NDArray[np.int64]
) -> Samples:
    """Rows of the values of `SignalBlock.stretch`, by tick and container; those of what does not run are of no meaning.

    Args:
        keys: of the containers, by tick and container.
        at: Unix microseconds, by tick, or by tick and container.
        cpu: percent, by tick and container; negative is None.
        sizes: by tick, these three, and container: memory, rx and tx in bytes; negative is None.
    """
    rows = np.zeros(keys.shape, SAMPLE)
    rows["container_id"], rows["at"] = keys, at
    for bit, (name, values) in enumerate(zip(VALUES, (cpu, *sizes.transpose(1, 0, 2)), strict=True)):
        is_null = values < 0
        rows[name] = np.where(is_null, 0, values)
        rows["nulls"] |= is_null.astype(np.uint8) << np.uint8(bit)
    return rows


def in_tuples(rows: Samples) -> list[Sample]:
    """Rows one by one."""
    columns = []
    for bit, name in enumerate(VALUES):
        values: list[Any] = rows[name].tolist()
        for place in np.flatnonzero(rows["nulls"] >> np.uint8(bit) & np.uint8(1)):
            values[place] = None
        columns.append(values)
    return [Sample(*row) for row in zip(rows["container_id"].tolist(), rows["at"].tolist(), *columns, strict=True)]
