"""Thresholds that end a run early: broken for so long without a break, the rest of it would tell nothing new."""

from collections.abc import Mapping, Sequence

from loadtests.thresholds import Aborted
from simulator.scenario import Threshold


class AbortWatch:
    """Judges the thresholds with `abort = true` while the run goes on, by what was measured since its start."""

    def __init__(self, thresholds: Sequence[Threshold]) -> None:
        self._broken_since: dict[Threshold, float | None] = {
            threshold: None for threshold in thresholds if threshold.abort
        }

    @property
    def watches(self) -> bool:
        """Whether there is anything to watch."""
        return bool(self._broken_since)

    def judge(self, elapsed_seconds: float, statistics: Mapping[str, Mapping[str, float]]) -> Aborted | None:
        """Look at the figures so far.

        Args:
            elapsed_seconds: since the start of the load.
            statistics: of the whole run so far, by metric. One that is absent or has no samples yet breaks nothing.

        Returns:
            The threshold that ends the run now.
        """
        for threshold, since in self._broken_since.items():
            value = statistics.get(threshold.metric, {}).get(threshold.stat)
            if value is None or threshold.holds(value):
                self._broken_since[threshold] = None
                continue
            broken_since = elapsed_seconds if since is None else since
            self._broken_since[threshold] = broken_since
            if elapsed_seconds - broken_since >= threshold.grace_seconds:
                return Aborted(threshold=threshold, value=value, after_seconds=elapsed_seconds)
        return None
