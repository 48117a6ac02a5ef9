"""The history of a run: written and verified before its server starts, and continued by its fleet."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from loadtests.backfill import Wanted, backfilling
from loadtests.backfill_checks import BackfillError
from loadtests.database import AWAY, Connect
from loadtests.findings import Findings
from loadtests.stage import ORG, StageError
from loadtests.verify import Verifier
from server.db.storage.base import Storage
from server.errors import StartupError
from simulator.scenario import Scenario


class Past(NamedTuple):
    """A history that is there."""

    findings: Findings
    verified_until_us: int
    """Up to when it is verified, Unix microseconds. The rest is verified with what the fleet sends."""


async def write_history(
    scenario: Scenario, dsn: str, storage: Storage, ledger: Path, connect: Connect, say: Callable[[str], None]
) -> Past:
    """Write the history of a scenario into its database, and verify it.

    It is verified now because the server removes what passes the retention. What became due meanwhile is written last.

    Args:
        scenario: says how much, and of which fleet.
        dsn: of the run's database, without rows.
        storage: the strategy.
        ledger: of the history; it must not exist yet.
        connect: to the database, for the verifier.
        say: tells people how it goes.

    Raises:
        StageError: it could not be written.
    """
    fleet = scenario.fleet
    say("writing history")
    try:
        wanted = Wanted(
            hours=scenario.storage.backfill_seconds / 3600, org=ORG, agents=fleet.agents, containers=fleet.containers,
            log_lines=fleet.log_lines, interval_us=fleet.interval_us, seed=scenario.seed, profiles=fleet.profiles,
            churn_per_hour=fleet.churn_per_hour, retention_us=round(scenario.storage.retention_seconds * 1e6),
        )  # fmt: skip
        async with backfilling(wanted, storage, dsn, ledger, say) as history:
            await history.write_up_to_now()
            say(f"verifying {history.rows:,} rows of history")
            # Lines of the ticks to come lie up to an interval before them.
            until_us = history.until_us - fleet.interval_us
            with Verifier([ledger], storage, connect, patience_seconds=0) as verifier:
                since_us, _ = await verifier.begin()
                await verifier.verify_through(since_us, until_us)
            await history.write_up_to_now()
            await history.finish()
    except (BackfillError, StartupError, ValueError, *AWAY) as error:
        raise StageError(f"the history could not be written: {error}") from None
    return Past(verifier.findings, until_us)
