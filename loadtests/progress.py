"""How a run goes on, told while it does: one live line on a terminal, a plain line every five seconds elsewhere."""

from typing import Any, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from loadtests.findings import Findings

_PLAIN_EVERY_SECONDS = 5


class Progress:
    """Says and shows on a stream."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False, soft_wrap=True)
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=True) if self._console.is_terminal else None
        )
        self._next_plain = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False)

    def show(
        self,
        elapsed: float,
        duration: float,
        fleet: dict[str, Any],
        rows_per_second: float,
        oldest_row_age_s: float | None,
        findings: Findings,
    ) -> None:
        """How it stands now. Times in seconds; `fleet` is the newest status of the simulator."""
        wrong = sum(findings.counts.values())
        parts = [
            f"{elapsed:4.0f}/{duration:.0f} s",
            f"{fleet.get('connected', 0)}/{fleet.get('agents', 0)} agents",
            f"{rows_per_second:,.0f} rows/s",
            f"ack p99 {_ms(fleet.get('ack_p99_ms'))}",
            f"oldest row {'-' if oldest_row_age_s is None else f'{oldest_row_age_s:.1f} s'}",
            f"{findings.verified:,} rows verified" + (f", {wrong} WRONG" if wrong else ""),
        ]
        line = "  ".join(parts)
        if self._live is not None:
            self._live.update(Text(line), refresh=True)
        elif elapsed >= self._next_plain:
            self._next_plain = elapsed + _PLAIN_EVERY_SECONDS - 0.5
            self.say(line)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} ms"
