"""The catalogue of metrics, and judging against it."""

from pathlib import Path

import pytest

from loadtests.catalogue import METRICS, SOURCES, STATISTICS
from loadtests.measure import Latency, Series
from loadtests.thresholds import (
    ALWAYS,
    UNLESS_SET,
    Aborted,
    Judged,
    Measured,
    judge,
    statistics_of,
    validate_thresholds,
)
from simulator.scenario import Scenario, ScenarioError, Threshold, load
from tests.support.results import latencies, made_result
from tests.support.results import scenario as faulty

ROOT = Path(__file__).parents[2]
SOUND: dict[str, Latency | Series | float] = {
    "ledger_missing": 0,
    "ledger_foreign": 0,
    "ledger_altered": 0,
    "ledger_verified_fraction": 1.0,
    "live_foreign": 0,
    "live_violations": 0,
    "api_violations": 0,
    "charts_wrong": 0,
    "audit_missing": 0,
    "audit_duplicate": 0,
    "audit_wrong": 0,
    "actions_executed_twice": 0,
    "actions_sent_twice": 0,
    "batches_unsettled": 0,
    "api_errors": 0,
    "live_errors": 0,
    "trespasses": 1,
}
DEFAULTS = len(ALWAYS) + len(UNLESS_SET)


def scenario(
    directory: Path,
    *thresholds: str,
    ui: int = 1,
    log_lines: int = 1,
    operators: int = 1,
    charts: int = 1,
    organisations: int = 2,
) -> Scenario:
    """A scenario with these thresholds."""
    path = directory / "x.toml"
    path.write_text(
        f'question = "q"\n[ui]\nsubscribers = {ui}\nchart_readers = {charts}\n[actions]\noperators = {operators}\n'
        f"[fleet]\nlog_lines = {log_lines}\norganisations = {organisations}\n[thresholds]\n" + "\n".join(thresholds)
    )
    return load(path)


def by_key(judged: list[Judged]) -> dict[str, Judged]:
    """The judgements by threshold."""
    return {one.key: one for one in judged}


def test_the_catalogue_names_units() -> None:
    """Each metric has a known kind and a meaning; a name's suffix and its unit agree."""
    units = {
        "_ms": "ms",
        "_bytes": "B",
        "_s": "s",
        "_rows": "rows",
        "_mb": "MB",
        "_cores": "cores",
        "_batches": "batches",
    }

    for name, metric in METRICS.items():
        assert metric.kind in STATISTICS
        assert metric.meaning.endswith(".")
        for suffix, unit in units.items():
            if name.endswith(suffix):
                assert metric.unit == unit
        if name.endswith("_per_second"):
            assert metric.unit.endswith("/s"), name
        assert SOURCES[name]


@pytest.mark.parametrize(
    ("threshold", "ui", "log_lines", "sentence"),
    [
        ('ack_latencyms.p99 = "< 1"', 1, 1, 'ack_latencyms.p99 = "< 1": unknown metric; did you mean ack_latency_ms?'),
        ('zzz.p99 = "< 1"', 1, 1, "unknown metric; expected one of ack_latency_ms, bystander_ack_latency_ms,"),
        ('ack_latency_ms.p98 = "< 1"', 1, 1, "unknown statistic; ack_latency_ms has p50, p90, p95, p99, p999, max,"),
        ('resends.max = "< 1"', 1, 1, "unknown statistic; resends has count"),
        ('ledger_missing.value = "== 0"', 1, 1, "unknown statistic; ledger_missing has count"),
        ('live_latency_ms.p99 = "< 1"', 0, 1, "cannot be measured without ui.subscribers or ui.reconn"),
        ('log_latency_ms.p99 = "< 1"', 1, 0, "cannot be measured with fleet.log_lines = 0"),
        ('live_messages.count = "> 1"', 0, 1, "cannot be measured without ui.subscribers or ui.reconn"),
        ('chart_query_ms.p99 = "< 1"', 1, 1, "cannot be measured with ui.chart_readers = 0"),
        ('chart_query_6h_ms.p99 = "< 1"', 1, 1, "cannot be measured with ui.chart_readers = 0"),
        (
            'reconnect_99_s.max = "< 1"',
            1,
            1,
            "cannot be measured without a fault server_kill or server_kill_before_ack or server_term or resets",
        ),
        ('withheld_bytes.count = "> 1"', 1, 1, "cannot be measured without a fault acks_withheld"),
        ('log_download_ms.p99 = "< 1"', 1, 1, "cannot be measured with ui.log_downloaders = 0"),
    ],
)
def test_a_threshold_that_cannot_be_judged_is_refused(
    tmp_path: Path, threshold: str, ui: int, log_lines: int, sentence: str
) -> None:
    """Unknown metrics and statistics, and metrics that the scenario does not make, are errors before the run."""
    with pytest.raises(ScenarioError) as error:
        validate_thresholds(scenario(tmp_path, threshold, ui=ui, log_lines=log_lines, charts=0))

    assert sentence in str(error.value)
    assert str(error.value).startswith(f"{tmp_path}/x.toml: thresholds.")


def test_all_wrong_thresholds_are_told_together(tmp_path: Path) -> None:
    """One error names every one of them."""
    with pytest.raises(ScenarioError) as error:
        validate_thresholds(scenario(tmp_path, 'a.p99 = "< 1"', 'b.p99 = "< 1"', 'ack_latency_ms.p99 = "< 1"'))

    assert [problem.key for problem in error.value.problems] == ["thresholds.a.p99", "thresholds.b.p99"]


@pytest.mark.parametrize("path", sorted((ROOT / "scenarios").glob("*.toml")), ids=lambda path: path.name)
def test_scenarios_that_we_ship_can_be_judged(path: Path) -> None:
    """Every threshold of every shipped scenario names a metric that it can measure."""
    validate_thresholds(load(path))


def test_the_defaults_are_always_judged(tmp_path: Path) -> None:
    """The bounds on data come first in every run, and a laxer one of the scenario does not replace them."""
    judged = judge(scenario(tmp_path, 'ledger_missing.count = "< 100"'), SOUND | {"ledger_missing": 3})

    assert [(one.key, one.limit) for one in judged[: len(ALWAYS)]] == [
        ("ledger_missing.count", "== 0"),
        ("ledger_foreign.count", "== 0"),
        ("ledger_altered.count", "== 0"),
        ("ledger_verified_fraction.value", ">= 0.99"),
        ("live_foreign.count", "== 0"),
        ("live_violations.count", "== 0"),
        ("api_violations.count", "== 0"),
        ("charts_wrong.count", "== 0"),
        ("audit_missing.count", "== 0"),
        ("audit_duplicate.count", "== 0"),
        ("audit_wrong.count", "== 0"),
        ("actions_executed_twice.count", "== 0"),
        ("actions_sent_twice.count", "== 0"),
        ("trespasses.count", "> 0"),
    ]
    assert [one.passed for one in judged] == [False] + [True] * (DEFAULTS - 1) + [True]


def test_a_run_without_browsers_is_not_judged_by_them(tmp_path: Path) -> None:
    """Where nobody watches, what browsers would have seen is no threshold."""
    judged = judge(scenario(tmp_path, ui=0, operators=0, charts=0), SOUND)

    ledger = {metric for metric in SOUND if metric.startswith("ledger_")}
    assert {one.metric for one in judged} == {*ledger, "batches_unsettled"}


def test_several_organisations_need_one_refusal_at_least(tmp_path: Path) -> None:
    """A run in which no attempt was refused proves nothing, and is no leak; of one organisation alone none is asked."""
    judged = by_key(judge(scenario(tmp_path), SOUND | {"trespasses": 0}))["trespasses.count"]
    alone = judge(scenario(tmp_path, organisations=1), SOUND)

    assert (judged.passed, judged.correctness) == (False, False)
    assert "trespasses" not in {one.metric for one in alone}


def test_a_run_without_operators_is_not_judged_by_the_audit_log(tmp_path: Path) -> None:
    """Who reads charts still finds broken promises of the API."""
    judged = judge(scenario(tmp_path, ui=0, operators=0, charts=1), SOUND)

    assert [one.metric for one in judged if not one.metric.startswith("ledger_")] == [
        "api_violations",
        "charts_wrong",
        "batches_unsettled",
        "api_errors",
    ]


def test_without_anybody_who_uses_the_api_it_breaks_no_promise(tmp_path: Path) -> None:
    """The error names every key of which one is needed."""
    with pytest.raises(ScenarioError, match=r"cannot be measured without actions\.operators or ui\.chart_readers or"):
        validate_thresholds(scenario(tmp_path, 'turns_skipped.count = "== 0"', operators=0, charts=0))


@pytest.mark.parametrize("metric", ["audit_missing", "audit_duplicate", "audit_wrong", "actions_executed_twice"])
def test_one_wrong_audit_row_is_a_matter_of_correctness(tmp_path: Path, metric: str) -> None:
    """It decides about data, as a lost row does."""
    judged = by_key(judge(scenario(tmp_path), SOUND | {metric: 1}))[f"{metric}.count"]

    assert (judged.passed, judged.correctness) == (False, True)


def test_a_threshold_given_twice_is_judged_once(tmp_path: Path) -> None:
    """A scenario that repeats a default makes no second line."""
    assert len(judge(scenario(tmp_path, 'ledger_missing.count = "== 0"'), SOUND)) == DEFAULTS


@pytest.mark.parametrize("metric", ["batches_unsettled", "api_errors", "live_errors"])
def test_what_failed_fails_a_run_that_did_not_ask(tmp_path: Path, metric: str) -> None:
    """Batches that were never acked and failed requests and sockets are judged, and are no matter of correctness."""
    judged = by_key(judge(scenario(tmp_path), SOUND | {metric: 2}))[f"{metric}.count"]

    assert (judged.passed, judged.reason, judged.correctness) == (False, "2 is not == 0", False)


@pytest.mark.parametrize("metric", ["batches_unsettled", "api_errors", "live_errors"])
def test_a_scenario_may_allow_what_failed(tmp_path: Path, metric: str) -> None:
    """Its own bound on the same statistic takes the place of the default."""
    judged = judge(scenario(tmp_path, f'{metric}.count = "< 5"'), SOUND | {metric: 2})

    assert [(one.limit, one.passed) for one in judged if one.metric == metric] == [("< 5", True)]


@pytest.mark.parametrize(
    ("kind", "explained"),
    [('server_term"\n', True), ('postgres_kill"\n', True), ('resets"\n', True), ('disconnect"\nagents = 1\n', False)],
)
def test_an_outage_explains_failed_requests_and_unacked_batches_never(
    tmp_path: Path, kind: str, explained: bool
) -> None:
    """Faults of server, Postgres and network take the users' errors out; those of the fleet's own agents do not."""
    path = tmp_path / "x.toml"
    path.write_text(
        'question = "q"\nduration = "30s"\n[ui]\nsubscribers = 1\nchart_readers = 1\n[server]\nrestart = true\n'
        f'[[fault]]\nat = "5s"\nkind = "{kind}'
    )
    judged = {one.metric for one in judge(load(path), SOUND)}

    assert {"api_errors", "live_errors"} & judged == (set() if explained else {"api_errors", "live_errors"})
    assert "batches_unsettled" in judged


def test_values_are_judged_with_a_reason(tmp_path: Path) -> None:
    """What holds has no reason; what fails says value and bound."""
    latency = Latency()
    for milliseconds in range(1, 101):
        latency.record_us(milliseconds * 1000)
    thresholds = [
        'ack_latency_ms.p50 = "< 51"', 'ack_latency_ms.count = "== 100"', 'ack_latency_ms.p99 = "< 50"',
        'table_bytes.last = "<= 7"', 'table_bytes.max = "<= 7"', 'resends.count = "> 0"',
    ]  # fmt: skip
    measured = SOUND | {"ack_latency_ms": latency, "table_bytes": Series([(1, 9.0), (2, 7.0)]), "resends": 0}
    judged = by_key(judge(scenario(tmp_path, *thresholds), measured))

    assert [one.passed for one in judged.values()][DEFAULTS:] == [True, True, False, True, False, False]
    assert judged["ack_latency_ms.p50"].reason == ""
    assert judged["ack_latency_ms.p50"].unit == "ms"
    assert judged["ack_latency_ms.count"].unit == ""
    assert judged["ack_latency_ms.p99"].value == pytest.approx(99, rel=0.001)
    assert judged["table_bytes.max"].reason == "9 is not <= 7"
    assert judged["resends.count"].reason == "0 is not > 0"


@pytest.mark.parametrize("bound", ["< 1000", "> -1", "== 0"])
def test_no_samples_are_never_a_pass(tmp_path: Path, bound: str) -> None:
    """A metric that is absent, empty or NaN fails, whatever the bound."""
    chosen = scenario(
        tmp_path, f'ack_latency_ms.p99 = "{bound}"', f'ack_latency_ms.count = "{bound}"',
        f'table_bytes.max = "{bound}"', f'resends.count = "{bound}"',
    )  # fmt: skip

    runs: tuple[Measured, ...] = ({}, {"ack_latency_ms": Latency(), "table_bytes": Series(), "resends": float("nan")})
    for measured in runs:
        judged = judge(chosen, measured)
        assert {one.reason for one in judged} == {"no samples"}
        assert not any(one.passed for one in judged)
        assert {one.value for one in judged} == {None}


def test_a_fraction_just_below_its_bound_does_not_read_as_equal(tmp_path: Path) -> None:
    """The reason shows enough digits to be true."""
    judged = by_key(judge(scenario(tmp_path), SOUND | {"ledger_verified_fraction": 0.989999999}))

    assert judged["ledger_verified_fraction.value"].reason == "0.989999999 is not >= 0.99"


def test_a_threshold_holds_for_its_phase_alone(tmp_path: Path) -> None:
    """What is slow during a fault breaks the bound of that phase, and not those of before and after."""
    keys = [f'{phase}.ack_latency_ms.p99 = "< 100"' for phase in ("before", "during", "after")]
    judged = by_key(list(made_result(tmp_path, *keys, 'during.insert_rows_per_second.min = "> 1"').thresholds))

    assert judged["before.ack_latency_ms.p99"].passed
    assert not judged["during.ack_latency_ms.p99"].passed
    assert judged["during.ack_latency_ms.p99"].value == pytest.approx(800, rel=0.02)
    assert judged["after.ack_latency_ms.p99"].passed
    assert judged["during.insert_rows_per_second.min"].passed


def test_a_phase_that_a_run_does_not_have_is_no_pass(tmp_path: Path) -> None:
    """Without the fault there is no before: no samples."""
    ack, timed = latencies()
    chosen = faulty(tmp_path, 'before.ack_latency_ms.p99 = "< 100"')
    judged = by_key(judge(chosen, SOUND | {"ack_latency_ms": ack}, {"ack_latency_ms": timed}))

    assert judged["before.ack_latency_ms.p99"].reason == "no samples"
    assert not judged["before.ack_latency_ms.p99"].passed


def test_a_threshold_that_ended_the_run_has_failed(tmp_path: Path) -> None:
    """Whatever was measured after it."""
    chosen = faulty(tmp_path, 'ack_latency_ms.p99 = {bound = "< 900", abort = true}')
    aborted = Aborted(threshold=chosen.thresholds[0], value=950, after_seconds=12)
    judged = by_key(judge(chosen, SOUND | {"ack_latency_ms": latencies()[0]}, aborted=aborted))["ack_latency_ms.p99"]

    assert (judged.passed, judged.aborted, judged.value) == (False, True, 950)
    assert judged.reason == "950 is not < 900: it ended the run after 12.0 s"


@pytest.mark.parametrize(
    ("threshold", "sentence"),
    [
        ('after.resends.count = "== 0"', "resends is known for the whole run only, not after a fault"),
        ('before.insert_batch_ms.p99 = "< 1"', "insert_batch_ms is known for the whole run only, not before a fault"),
        (
            'connections_lost.count = {bound = "== 0", abort = true}',
            "abort: connections_lost is known at the end only, so it cannot end a run",
        ),
    ],
)
def test_what_a_metric_cannot_be_asked_is_refused(tmp_path: Path, threshold: str, sentence: str) -> None:
    """A phase or an early end that the metric cannot tell is an error before the run."""
    with pytest.raises(ScenarioError) as error:
        validate_thresholds(faulty(tmp_path, threshold))

    assert sentence in str(error.value)


def test_what_the_catalogue_does_not_know_is_no_measurement(tmp_path: Path) -> None:
    """A measured name or kind that the catalogue lacks is a fault of the program, told at once."""
    with pytest.raises(ValueError, match="resents: unknown metric; did you mean resends"):
        judge(scenario(tmp_path), {"resents": 1})
    with pytest.raises(ValueError, match="expected a latency"):
        statistics_of("ack_latency_ms", 5.0)
    with pytest.raises(ValueError, match="expected a count"):
        statistics_of("resends", Series())


def test_some_metrics_are_about_correctness(tmp_path: Path) -> None:
    """The ledger's metrics and what browsers must never see decide about data, every other about speed."""
    judged = judge(scenario(tmp_path, 'ack_latency_ms.p99 = "< 1"'), SOUND | {"live_foreign": 1})

    speed = [one.metric for one in judged if not one.correctness]
    assert speed == ["trespasses", *(one.metric for one in UNLESS_SET), "ack_latency_ms"]
    assert not judged[4].passed


def test_browsers_that_measured_nothing_are_no_leak(tmp_path: Path) -> None:
    """Without samples a threshold on data fails, but it is no finding about data."""
    measured = {name: value for name, value in SOUND.items() if not name.startswith("live_")}
    judged = by_key(judge(scenario(tmp_path), measured))["live_foreign.count"]

    assert (judged.passed, judged.reason, judged.correctness) == (False, "no samples", False)


def test_a_threshold_can_be_a_key() -> None:
    """Equal thresholds are one: that is how repeats are found."""
    one, other = (Threshold(metric="m", stat="p50", op="<", limit=1) for _ in range(2))

    assert len({one, other}) == 1


def test_every_metric_is_documented() -> None:
    """docs/verdict.md has a row for each metric, with unit and statistics' kind."""
    text = (ROOT / "docs" / "verdict.md").read_text()
    rows = {row.split("|")[1].strip().strip("`"): row for row in text.splitlines() if row.startswith("| `")}

    for name, metric in METRICS.items():
        assert name in rows, f"{name} is missing in docs/verdict.md"
        cells = [cell.strip() for cell in rows[name].split("|")]
        assert cells[2] == (metric.unit or "-"), name
        assert cells[3] == metric.kind, name
