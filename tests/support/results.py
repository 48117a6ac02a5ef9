"""A run's outcome, made up but whole: every kind of metric, a fault, phases, probes, statements."""

from collections.abc import Mapping
from pathlib import Path

from loadtests.fingerprint import Environment, Postgres
from loadtests.measure import Latency, Series
from loadtests.phases import phases
from loadtests.probes.looks import Looks
from loadtests.probes.postgres import Statement
from loadtests.result import Course, FaultDone, Result, summarise
from loadtests.thresholds import judge
from loadtests.timed import Timed, Window
from simulator.intervals import Intervals
from simulator.scenario import Scenario, load

BEGUN_US = 1_700_000_000_000_000
SECONDS = 30
HOSTILE = "<script>alert('x')</script> $\\frac{1}{0}$ & \"quotes\""
MACHINE = Environment(
    cores=2, memory_bytes=8 << 30, processor="a processor", kernel="Linux 6", python="CPython 3.11",
    packages={"asyncpg": "0.32"}, git_commit="abc",
    postgres=Postgres(version="18.6", settings={"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}),
)  # fmt: skip
SOUND: Mapping[str, Latency | Series | float] = {
    "ledger_missing": 0, "ledger_foreign": 0, "ledger_altered": 0, "ledger_verified_fraction": 1.0,
    "batches_unsettled": 0,
}  # fmt: skip
TEXT = """
question = 'QUESTION'
duration = "30s"
settle = "2s"
[fleet]
ramp = "5s"
[server]
restart = true
[[fault]]
at = "10s"
kind = "server_kill"
[thresholds]
"""


def scenario(directory: Path, *thresholds: str, question: str = "Does it hold?", name: str = "made") -> Scenario:
    """A scenario with a fault, and with these thresholds."""
    path = directory / f"{name}.toml"
    path.write_text(TEXT.replace("'QUESTION'", f"'''{question}'''") + "\n".join(thresholds))
    return load(path)


def latencies(slow_from: int = 10, slow_until: int = 14) -> tuple[Latency, Timed]:
    """Ten a second of 5 ms; those meant for the slow seconds take 800 ms."""
    whole, times = Latency(), Intervals()
    for second in range(SECONDS):
        for tenth in range(10):
            microseconds = 800_000 if slow_from <= second < slow_until else 5_000
            whole.record_us(microseconds)
            times.record(microseconds, BEGUN_US + second * 1_000_000 + tenth * 100_000)
    return whole, Timed(times.encoded())


def series(value: float, *, without: range = range(0)) -> Series:
    """A point a second, rising."""
    return Series((BEGUN_US + i * 1_000_000, value * (1 + i / SECONDS)) for i in range(SECONDS) if i not in without)


def made_result(
    directory: Path, *thresholds: str, question: str = "Does it hold?", hostile: str = "", invalid: tuple[str, ...] = ()
) -> Result:
    """The result of a run of 30 s, killed at 10 s, back at 12 s."""
    run = scenario(directory, *thresholds, question=question)
    ack, times = latencies()
    timed = {"ack_latency_ms": times}
    measured: dict[str, Latency | Series | float] = dict(SOUND) | {
        "ack_latency_ms": ack,
        "insert_rows_per_second": series(500, without=range(10, 13)),
        "offered_rows_per_second": series(500),
        "backlog_batches": series(3),
        "table_bytes": series(4e6),
        "index_bytes": series(2e6),
        "server_cpu_cores": series(0.3, without=range(10, 13)),
        "server_rss_mb": series(90, without=range(10, 13)),
        "agents_connected": series(100),
        "wal_bytes_per_second": series(1e6),
    }
    windows = phases(
        [Window(BEGUN_US + 10_000_000, BEGUN_US + 12_000_000)], started_us=BEGUN_US,
        ended_us=BEGUN_US + SECONDS * 1_000_000, ramp_seconds=5, settle_seconds=2,
    )  # fmt: skip
    course = Course(
        started_at_us=BEGUN_US - 5_000_000, ended_at_us=BEGUN_US + 35_000_000, load_started_at_us=BEGUN_US,
        load_ended_at_us=BEGUN_US + SECONDS * 1_000_000, phases=windows,
        faults=[FaultDone(at_us=BEGUN_US + 10_000_000, ended_at_us=BEGUN_US + 10_000_000, kind="server_kill",
                          detail=hostile or "SIGKILL to process 1")],
        probes=[Looks(probe="server", looks=30, failures=3, last_error=hostile or "no answer")],
        statements=[Statement(query=hostile or "COPY x FROM STDIN", calls=3, rows=9, total_ms=1, mean_ms=0.3, max_ms=0.5)],
    )  # fmt: skip
    return summarise(
        run, course, environment=MACHINE, measured=measured, timed=timed,
        judged=judge(run, measured, timed, windows), invalid=invalid,
    )  # fmt: skip
