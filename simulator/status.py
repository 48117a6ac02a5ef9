"""The line that tells how a running fleet stands: JSON, one live line on a terminal, or plain lines."""

import json
import sys
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from simulator.fleet import Fleet
from simulator.report import status

_PLAIN_EVERY = 5
"""Seconds between two plain lines: enough for a log file, not too much."""


class StatusLine:
    """Shows the fleet's state once a second while it is entered.

    Args:
        as_json: one JSON object per second on standard output. Else people are told on standard error.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal and not as_json else None
        self._console = console
        self._calls = 0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, fleet: Fleet) -> None:
        """Tell how the fleet stands now."""
        now = status(fleet)
        self._calls += 1
        if self._as_json:
            sys.stdout.write(json.dumps(now) + "\n")
            sys.stdout.flush()
        elif self._live is not None:
            self._live.update(Text(_sentence(now)), refresh=True)
        elif self._calls % _PLAIN_EVERY == 1:
            self._console.print(_sentence(now), markup=False, highlight=False, soft_wrap=True)


def _sentence(now: dict[str, Any]) -> str:
    parts = [
        f"{now['connected']}/{now['agents']} agents connected",
        f"{now['batches_acked']} of {now['batches_produced']} batches acknowledged",
        f"ack p50 {_ms(now['ack_p50_ms'])} p99 {_ms(now['ack_p99_ms'])}",
        f"lag p99 {_ms(now['schedule_lag_p99_ms'])}",
        f"CPU {now['cpu']:.0%}",
    ]
    parts += [f"{now[name]} {name.replace('_', ' ')}" for name in _UNUSUAL if now[name]]
    return ", ".join(parts)


_UNUSUAL = ("batches_resent", "batches_dropped", "skipped_ticks")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
