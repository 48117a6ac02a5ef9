"""A run's outcome, without the run."""

import io
from pathlib import Path

from loadtests.progress import Progress
from loadtests.run import Run
from loadtests.verify import Findings
from simulator.scenario import load

ROOT = Path(__file__).parents[2]


def test_unverified_rows_make_a_run_invalid(tmp_path: Path) -> None:
    """Rows that nobody could judge are told as a reason, however small a fraction they are."""
    run = Run(load(ROOT / "scenarios" / "smoke.toml"), tmp_path, None, Progress(io.StringIO()))
    run._outcome.findings = Findings(verified=99_999, acked=99_999, stored=100_000, unverified=1)

    result = run._result()

    assert result.metrics["ledger_verified_fraction"]["statistics"]["value"] == 0.99999
    assert "invalid: 1 stored rows unverified: the fleet's ledger fell silent" in result.reasons
