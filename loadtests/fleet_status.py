"""What the fleet tells of itself once a second, read from its log while it is written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from loadtests.measure import Series
from loadtests.probes.catalogue import FLEET_SERIES
from loadtests.probes.looks import Looks, Rates

_RATES = {
    "offered_rows_per_second": "rows",
    "offered_batches_per_second": "batches_produced",
    "acked_batches_per_second": "batches_acked",
}
_LEVELS = {"backlog_batches": "backlog", "fleet_connected": "connected"}
_COUNTS = {"resends": "batches_resent", "batches_dropped": "batches_dropped"}
_LATENCIES = ("ack_latency_ms", "schedule_lag_ms")
_MOST_BYTES = 1 << 20
"""Of the log, read at a time."""


class FleetStatus:
    """Follows the status lines in a fleet's log."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._offset = 0
        self._rates = Rates()
        self._rest = b""
        self.last: dict[str, Any] = {}
        """The newest status; empty until there is one."""
        self.series = {name: Series() for name in FLEET_SERIES}
        self.looks = Looks(probe="fleet status")

    def poll(self) -> None:
        """Read what was added since the last call. Reads a file: not for an event loop, unless little is added."""
        try:
            with self._log.open("rb") as file:
                file.seek(self._offset)
                while added := file.read(_MOST_BYTES):
                    self._offset += len(added)
                    self._take(added)
        except OSError as error:
            self.looks.failed(error)

    def warmed_up(self) -> None:
        """See `Sampler`."""
        for series in self.series.values():
            series.begin()

    def statistics(self) -> dict[str, Mapping[str, float]]:
        """What the fleet measured so far, by the names of the catalogue."""
        found: dict[str, Mapping[str, float]] = {
            name: self.last[name] for name in _LATENCIES if isinstance(self.last.get(name), dict)
        }
        found |= {
            name: {"count": float(self.last[key])} for name, key in _COUNTS.items() if key in self.last
        }  # fmt: skip
        return found

    def _take(self, added: bytes) -> None:
        *lines, self._rest = (self._rest + added).split(b"\n")
        for line in lines:
            if line.startswith(b"{"):
                try:
                    self._add(msgspec.json.decode(line, type=dict[str, Any]))
                except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
                    self.looks.failed(error)
        # A line without an end is no status, and must not grow for ever.
        self._rest = self._rest if len(self._rest) < _MOST_BYTES else b""

    def _add(self, status: dict[str, Any]) -> None:
        if "at_us" not in status:
            return  # another line of JSON: a warning
        at_us = int(status["at_us"])
        rates = self._rates.take(at_us / 1e6, {name: float(status[key]) for name, key in _RATES.items()})
        for name, rate in rates.items():
            self.series[name].add(at_us, rate)
        for name, key in _LEVELS.items():
            self.series[name].add(at_us, float(status[key]))
        self.last = status
        self.looks.good()
