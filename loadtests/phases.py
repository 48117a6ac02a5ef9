"""A run before, during and after its faults."""

from collections.abc import Mapping, Sequence

from loadtests.measure import Latency, Series
from loadtests.timed import Timed, Window
from simulator.scenario_format import PHASES

BEFORE, DURING, AFTER = PHASES

Phases = Mapping[str, tuple[Window, ...]]
"""The windows of each phase; a phase that a run does not have is absent."""


def phases(
    broken: Sequence[Window], *, started_us: int, ended_us: int, ramp_seconds: float, settle_seconds: float
) -> dict[str, tuple[Window, ...]]:
    """The phases of a run; none if nothing broke.

    *Before* is from the end of the ramp to the first fault. *During* is each fault, from its begin until
    `settle_seconds` after what was broken worked again. *After* is the rest: after a fault, until the next one or the end
    of the load.

    Args:
        broken: from each fault's begin until what it broke works again.
        started_us: begin of the load in Unix microseconds.
        ended_us: its end.
        ramp_seconds: in which the agents connect, or what else belongs to no phase.
        settle_seconds: how long a repaired system gets to calm down.
    """
    if not broken:
        return {}
    during: list[Window] = []
    for begun, mended in sorted(broken):
        ends = min(mended + round(settle_seconds * 1e6), ended_us)
        if during and begun <= during[-1].until_us:
            during[-1] = Window(during[-1].from_us, max(during[-1].until_us, ends))
        else:
            during.append(Window(begun, ends))
    nexts = [*(window.from_us for window in during[1:]), ended_us]
    found = {
        BEFORE: [Window(started_us + round(ramp_seconds * 1e6), during[0].from_us)],
        DURING: during,
        AFTER: [Window(window.until_us, following) for window, following in zip(during, nexts, strict=True)],
    }
    kept = {name: tuple(window for window in windows if window.from_us < window.until_us)
            for name, windows in found.items()}  # fmt: skip
    return {name: windows for name, windows in kept.items() if windows}


def in_phase(measurement: Timed | Series, phase: str, windows: Sequence[Window]) -> Latency | Series:
    """What was measured in one phase.

    A second that lies across the border belongs to the fault: what is told of before and after has nothing of it.
    """
    if isinstance(measurement, Timed):
        return measurement.between(windows, whole=phase != DURING)
    return measurement.between(windows)
