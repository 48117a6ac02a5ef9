"""A fleet that goes on where a backfilled history ends: what it must have in common with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from simulator.errors import PlanError, as_option
from simulator.ledger import Header, LedgerError, LedgerReader
from simulator.workload import HOUR_US, Workload

_COMMON = ("org", "agents", "first_agent", "containers", "log_lines", "interval_us", "seed", "profiles")
"""Fields of a plan that a history decides, beside churn."""


class History(NamedTuple):
    """A history, of its ledger."""

    header: Header
    until_us: int
    """Where it ends, Unix microseconds: the first tick at or after it is the first of the fleet."""

    def plan_fields(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a plan that continues it.

        Args:
            given: of the fields that a history decides those that somebody asked for.

        Raises:
            PlanError: one of them is another.
        """
        header = self.header
        decided: dict[str, Any] = {field: getattr(header, field) for field in _COMMON}
        ticks = header.churn_ticks
        decided["churn_per_hour"] = header.containers * HOUR_US / (header.interval_us * ticks) if ticks else 0.0
        for field, value in given.items():
            same = value == decided[field]
            if field == "churn_per_hour" and not same:  # rates that come to the same number of ticks are the same
                same = Workload(**(_workload(decided) | {field: value})).churn_ticks == ticks
            if not same:
                known = as_option(field, decided[field])[1]
                raise PlanError(*as_option(field, value), f"{known}, as in the history that is continued, or nothing")
        return decided | {"t0_us": header.t0_us, "continues_us": self.until_us}


def _workload(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in fields.items() if field != "org"}


def read_history(path: Path, *, now_us: int, spool_us: int) -> History:
    """The history that a ledger tells of.

    Args:
        path: the ledger.
        now_us: Unix microseconds.
        spool_us: how much of the time since its end a fleet can make up for.

    Raises:
        PlanError: there is none, or it has no end, or ended too long ago.
    """
    try:
        with LedgerReader(path) as ledger:
            if not ledger.poll() or ledger.header is None:
                raise PlanError("continue", path, "the ledger of a backfill")
    except (LedgerError, OSError) as error:
        raise PlanError("continue", path, f"the ledger of a backfill: {error}") from None
    if not ledger.header.backfilled:
        raise PlanError("continue", path, "the ledger of a backfill, not that of a fleet")
    if not ledger.ended:
        raise PlanError("continue", path, "the ledger of a backfill that came to its end")
    ago_us = now_us - ledger.progress_us
    if ago_us > spool_us:
        raise PlanError(
            "continue",
            path,
            f"a history that ended at most {spool_us / 1e6:g} s ago (--spool-age), not {ago_us / 1e6:.0f} s",
        )
    return History(ledger.header, ledger.progress_us)
