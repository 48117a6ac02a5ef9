"""A run in Markdown, short enough for a comment of a CI."""

import re
from pathlib import Path

from loadtests.fingerprint import Environment
from loadtests.numbers import number
from loadtests.offered import offered, warm_up
from loadtests.result import MEANING, Result, Verdict
from loadtests.result_file import write_whole
from loadtests.thresholds import Judged
from simulator.scenario_format import seconds

NAME = "summary.md"
_MARKS = {
    Verdict.PASSED: "\N{WHITE HEAVY CHECK MARK}",
    Verdict.INVALID: "\N{WARNING SIGN}",
    Verdict.INTERRUPTED: "\N{WARNING SIGN}",
}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~!&])")


def write_markdown(directory: Path, result: Result) -> Path:
    """Write `summary.md` into `directory`, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path = directory / NAME
    write_whole(path, markdown(result).encode(errors="replace"))
    return path


def markdown(result: Result) -> str:
    """The verdict, why, the thresholds, and what was run where."""
    verdict = Verdict(result.exit_code)
    scenario = result.scenario
    failed = [threshold for threshold in result.thresholds if not threshold.passed]
    lines = [
        f"### {_MARKS.get(verdict, chr(0x274C))} {_plain(scenario.name)}: {result.verdict} (exit {result.exit_code})",
        "",
        f"{MEANING[verdict][0].upper()}{MEANING[verdict][1:]}. {_plain(scenario.question)}",
        "",
    ]
    if result.reasons:
        lines += [*(f"- {_plain(reason)}" for reason in result.reasons), ""]
    lines += ["| | threshold | bound | value |", "|---|---|---|---|"]
    lines += [_row(threshold) for threshold in sorted(result.thresholds, key=lambda threshold: threshold.passed)]
    load = (
        f"{scenario.fleet.agents:,} agents of {scenario.fleet.containers} containers every "
        f"{seconds(scenario.fleet.interval_seconds)} for {seconds(round(result.duration_seconds, 1))}, seed {result.seed}."
    )
    held = f"{len(result.thresholds) - len(failed)} of {len(result.thresholds)} thresholds held."
    got = f"{'; '.join(one.told() for one in offered(result))}."
    lines += ["", " ".join(filter(None, (held, load, got, warm_up(result)))), "", _machine(result.environment)]
    return "\n".join(lines) + "\n"


def _machine(environment: Environment) -> str:
    postgres = f"Postgres {environment.postgres.version}" if environment.postgres else "no Postgres"
    parts = [
        f"{environment.cores} cores", f"{environment.memory_bytes / 2**30:.1f} GiB", environment.kernel, environment.python,
        postgres, f"commit {environment.git_commit or 'unknown'}",
    ]  # fmt: skip
    target = environment.target
    version = f" (version {target.version})" if target and target.version else ""
    where = (
        f"Server {target.url}{version}, which was there already; organisation {target.org}. Load from "
        if target
        else ""
    )
    return f"{_plain(where + ', '.join(parts))}."


def _row(threshold: Judged) -> str:
    value = "no samples" if threshold.value is None else f"{number(threshold.value)} {threshold.unit}".strip()
    mark = "\N{WHITE HEAVY CHECK MARK}" if threshold.passed else "\N{CROSS MARK}"
    return f"| {mark} | {_plain(threshold.key)} | {_plain(threshold.limit)} | {_plain(value)} |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no mention of anybody, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("@", "@\N{ZERO WIDTH SPACE}")
