"""A scenario to begin with: every key of the format, commented out at its default. Made of the format itself."""

import textwrap
from collections.abc import Iterator
from typing import Any

from simulator.fault_kinds import FAULTS
from simulator.profiles import DEFAULT_MIX
from simulator.scenario_format import FAULT_KEYS, KEYS, SHAPES, STRATEGIES, THRESHOLD_KEYS, Key

_WIDTH = 110
_EXAMPLES = {"extends": "steady-1k", "fault.at": "15s", "fault.kind": "server_kill", "fault.agents": 5}
"""Of keys that have no default."""
_TOLD = {
    "ui.shape.kind": {name: shape.meaning for name, shape in SHAPES.items()},
    "storage.strategy": STRATEGIES,
}
"""Words that a key may have, and what each means."""
_THRESHOLDS = (
    ("ack_latency_ms.p99", "< 1000"),
    ("insert_rows_per_second.mean", "> 0"),
    ("batches_dropped.count", "== 0"),
    ("schedule_lag_ms.p99", "< 100"),
)
"""That every scenario can be judged by."""


def template(name: str) -> str:
    """The text of a new scenario; it can be run as it is.

    Args:
        name: of the scenario, for its question.
    """
    lines = [
        f"# {_question(name)}",
        "#",
        *_comment(
            "Say here what it does, and how long it takes. Every key stands below with what it takes and its default; take "
            "the # in front of one away to change it. `seatrial run` tells of mistakes, docs/scenarios.md says more."
        ),
        "",
    ]
    for key, known in KEYS.items():
        if "." not in key:
            lines += _entry(key, key, known, live=_question(name) if key == "question" else None)
    for section in dict.fromkeys(key.rpartition(".")[0] for key in KEYS if "." in key):
        lines.append(f"[{section}]")
        for key, known in KEYS.items():
            if key.rpartition(".")[0] == section:
                lines += _entry(key, key.rpartition(".")[2], known)
        if section == "server":
            lines += [*_comment("Settings of the server (docs/settings.md), as texts."), "# [server.env]"]
            lines += ['# SEATRIAL_LANES = "2"', ""]
        if section == "storage":
            lines += [*_comment("Settings of the run's own Postgres, as in postgresql.conf, as texts."), "# [postgres]"]
            lines += ['# shared_buffers = "4GB"', ""]
    return "\n".join([*lines, *_faults(), *_thresholds()]) + "\n"


def _question(name: str) -> str:
    return f"Does {name} hold?"


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=f"# {indent}", subsequent_indent=f"# {indent}  " if indent else "# ",
        break_on_hyphens=False,
    )  # fmt: skip


def _entry(key: str, leaf: str, known: Key, live: str | None = None) -> Iterator[str]:
    """What a key means, what it takes, and the key itself, commented out at its default."""
    needed = " Required." if known.default is ... else " Not set by default." if known.default is None else ""
    yield from _comment(f"{known.meaning} {_sentence(known.kind.told())}{needed}")
    for word, meaning in _TOLD.get(key, {}).items():
        yield from _comment(f"{word}: {meaning}", "  ")
    if live is not None:
        yield f"{leaf} = {_toml(live)}"
    else:
        value = _EXAMPLES.get(key, DEFAULT_MIX if key == "fleet.profiles" else known.default)
        yield f"# {leaf} = {_toml(value)}"
    yield ""


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _faults() -> Iterator[str]:
    yield from _comment(
        "What breaks, and when: any number of [[fault]] tables. Each takes `at`, `kind`, and what its kind takes:"
    )
    for name, kind in FAULTS.items():
        takes = f" Takes {', '.join(kind.keys)}." if kind.keys else ""
        yield from _comment(f"{name}: {kind.meaning}{takes}", "  ")
    yield ""
    yield "# [[fault]]"
    for name, known in FAULT_KEYS.items():
        yield from _entry(f"fault.{name}", name, known)


def _thresholds() -> Iterator[str]:
    yield "[thresholds]"
    yield from _comment(
        'metric.statistic = "comparison number", in the unit of the metric\'s name; docs/verdict.md lists the metrics. '
        "One that holds for a part of a run with faults stands in [thresholds.before], [thresholds.during] or "
        "[thresholds.after]. As a table it takes:"
    )
    for name, known in THRESHOLD_KEYS.items():
        default = "required" if known.default is ... else f"default {_toml(known.default)}"
        yield from _comment(f"{name}: {known.meaning} {_sentence(known.kind.told())} {_sentence(default)}", "  ")
    yield '# ack_latency_ms.p50 = { bound = "< 5000", abort = true, grace = "10s" }'
    for threshold, limit in _THRESHOLDS:
        yield f"{threshold} = {_toml(limit)}"


def _toml(value: Any) -> str:
    """A value as TOML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        escaped = "".join(
            f"\\u{ord(c):04X}" if ord(c) < 32 or ord(c) == 127 else c for c in value.replace("\\", "\\\\")
        )
        return '"' + escaped.replace('"', '\\"') + '"'
    return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + " }"
