"""Charts at the end of a load against what the generator made: every range, of some containers."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from urllib.parse import urlencode

from msgspec import Struct, field

from loadtests.answers import Chart
from loadtests.asked import ask
from loadtests.chart_truth import differences, truth
from loadtests.measure import now_us
from loadtests.recorded import CHART_RANGES
from loadtests.verify import Verifier
from server.db.storage.base import longest_gap_us
from simulator.ledger import STATUSES, Status
from simulator.samples import Samples

CONTAINERS = 5
"""That are looked at, of different agents where there are so many."""
SETTLE_SECONDS = 40.0
"""How long a chart that differs is asked for again: a late sample shows in a long chart after the rollup's next round."""
_RETRY_SECONDS = 1.0
_MARGIN_US = 60_000_000
"""Beyond the retention: what the server's next removal takes while we ask."""
_ACKED, _REJECTED, _UNSENT = (STATUSES.index(status) for status in (Status.ACKED, Status.REJECTED, Status.UNSENT))


class ChartFindings(Struct, kw_only=True):
    """How many charts were held against the generator, and those that tell something else."""

    checked: int = 0
    wrong: list[str] = field(default_factory=list)
    """Container, range and the first difference of each."""

    def measured(self) -> dict[str, float]:
        """By the names of the catalogue."""
        return {"charts_checked": float(self.checked), "charts_wrong": float(len(self.wrong))}


async def check_charts(
    http: str,
    reader_of: Callable[[int], str],
    verifier: Verifier,
    agents: Sequence[int],
    *,
    retention_us: int,
    seed: int,
) -> ChartFindings:
    """Look at some containers over all ranges. Nothing may be sent any more.

    A container of which it is not known whether every row is stored is left out: after faults some were sent and not acked.

    Args:
        http: the server's address.
        reader_of: makes the `Authorization` of somebody who may read what an agent sent.
        verifier: has begun; knows what the fleet sent.
        agents: of the fleet.
        retention_us: samples that are older may be gone.
        seed: chooses the containers.

    Raises:
        AskError: the server gave no good answer.
    """
    chance, findings = Random(seed), ChartFindings()
    for agent in chance.sample(agents, min(CONTAINERS, len(agents))):
        kept_from = now_us() - retention_us + _MARGIN_US
        found = await asyncio.to_thread(_settled, verifier, agent, kept_from, chance)
        if found is None:
            continue
        container, rows = found
        for name in CHART_RANGES:
            url = f"{http}/api/containers/{container}/metrics?{urlencode({'range': name, 'merge': 'container'})}"
            difference = await _difference(url, partial(reader_of, agent), rows, kept_from)
            findings.checked += 1
            if difference:
                findings.wrong.append(f"container {container}, {name}: {difference}")
    return findings


async def _difference(url: str, authorization: Callable[[], str], rows: Samples, kept_from: int) -> str:
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        chart = await ask(url, authorization, Chart)
        step_us = round(chart.step_seconds * 1e6)
        # A point needs its samples whole, and the one before them for its rate.
        whole_from = kept_from + longest_gap_us(step_us)
        found = chart.wrong_shape() or differences(chart, truth(rows, chart.at, step_us), whole_from)
        if not found or time.monotonic() > deadline:
            return found
        await asyncio.sleep(_RETRY_SECONDS)


def _settled(verifier: Verifier, agent: int, since: int, chance: Random) -> tuple[int, Samples] | None:
    """A container of an agent and its samples from `since` on, if it is known of each whether it is stored."""
    expected = verifier.samples_of(agent, since, verifier.last_at_us())
    ids = sorted(set(expected.rows["container_id"].tolist()))
    for container in chance.sample(ids, len(ids)):
        its = expected.rows["container_id"] == container
        status = expected.status[its]
        stored = status == _ACKED
        if stored.any() and (stored | (status == _REJECTED) | (status == _UNSENT)).all():
            return container, expected.rows[its][stored]
    return None
