"""What people and programs see of a running fleet: a live table on a terminal, JSON, or plain lines."""

import json
import sys
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from simulator.latency import SoFar
from simulator.status import Status, told

_PLAIN_EVERY = 5
"""Seconds between two plain lines: enough for a log file, not too much."""
_UNUSUAL = ("batches_resent", "batches_dropped", "skipped_ticks")


class View:
    """Shows a fleet's state once a second while it is entered.

    Args:
        as_json: one JSON object per second on standard output. Else people are told on standard error.
        title: of the table: what runs.
    """

    def __init__(self, *, as_json: bool, title: str = "") -> None:
        self._as_json = as_json
        self._title = title
        console = Console(stderr=True)
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal and not as_json else None
        self._console = console
        self._calls = 0
        self._before: Status | None = None
        self._ack, self._lag = SoFar(), SoFar()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, status: Status) -> None:
        """Tell how the fleet stands now."""
        now, self._before = told(status, self._before), status
        self._calls += 1
        if self._as_json:
            self._ack.add(status.ack)
            self._lag.add(status.lag)
            now |= {"ack_latency_ms": self._ack.statistics_ms(), "schedule_lag_ms": self._lag.statistics_ms()}
            sys.stdout.write(json.dumps(now) + "\n")
            sys.stdout.flush()
        elif self._live is not None:
            self._live.update(_table(now, self._title), refresh=True)
        elif self._calls % _PLAIN_EVERY == 1:
            self._console.print(_sentence(now), markup=False, highlight=False, soft_wrap=True)


def _table(now: dict[str, Any], title: str) -> Table:
    """Two figures a row: what flows on the left, what goes wrong on the right."""
    table = Table(box=None, pad_edge=False, show_header=False, title=title or None, title_justify="left")
    for _ in range(2):
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", min_width=12, no_wrap=True)
    rate = now["messages_per_second"]
    faults = ", ".join(f"{count} x {kind}" for kind, count in now["faults"].items())
    rows = [
        ("agents up", f"{now['connected']:,}/{now['agents']:,}", "resends", f"{now['batches_resent']:,}"),
        ("messages/s", "-" if rate is None else f"{rate:,.0f}", "backlog", f"{now['backlog']:,}"),
        ("ack p50", _ms(now["ack_p50_ms"]), "dropped", f"{now['batches_dropped']:,}"),
        ("ack p99", _ms(now["ack_p99_ms"]), "skipped ticks", f"{now['skipped_ticks']:,}"),
        ("lag p99", _ms(now["schedule_lag_p99_ms"]), "faults", faults or "0"),
        ("CPU", f"{now['cpu']:.0%} of a core", "memory", f"{now['rss_bytes'] / 2**20:,.0f} MiB"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _sentence(now: dict[str, Any]) -> str:
    rate = now["messages_per_second"]
    parts = [
        f"{now['connected']}/{now['agents']} agents connected",
        *([] if rate is None else [f"{rate:.0f} messages/s"]),
        f"{now['batches_acked']} of {now['batches_produced']} batches acknowledged",
        f"ack p50 {_ms(now['ack_p50_ms'])} p99 {_ms(now['ack_p99_ms'])}",
        f"lag p99 {_ms(now['schedule_lag_p99_ms'])}",
        f"CPU {now['cpu']:.0%}",
    ]
    parts += [f"{now[name]} {name.replace('_', ' ')}" for name in _UNUSUAL if now[name]]
    parts += [f"{count} x fault {kind}" for kind, count in now["faults"].items()]
    return ", ".join(parts)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} ms"
