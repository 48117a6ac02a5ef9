"""The format of a scenario: its keys, what each takes, and how a mistake is told.

`KEYS` and `FAULT_KEYS` are the whole format; `simulator.scenario` reads files against them.
"""

import difflib
import json
import operator
import re
from collections.abc import Callable, Iterable
from math import isfinite, nan
from typing import Any, NamedTuple

from simulator.fault_kinds import FAULTS
from simulator.profiles import DEFAULT_MIX, MixError, checked_mix, mix_text, parse_mix

STRATEGIES: dict[str, str] = {
    "plain": "One table each for samples and log lines; old rows go by a scheduled DELETE.",
    "partitioned": "Both tables in ranges of time, native partitions; old ranges are dropped.",
}
"""Storage strategies that a scenario may name, and what each is."""


class ShapeKind(NamedTuple):
    """A kind of load shape."""

    meaning: str
    keys: tuple[str, ...] = ()
    """The keys that it takes beside `kind`."""


SHAPES: dict[str, ShapeKind] = {
    "steady": ShapeKind("All browsers come at `ui.spawn_rate`, and stay."),
    "ramp": ShapeKind("They come one after the other, evenly `over` a time.", ("over",)),
    "spike": ShapeKind(
        "A share of them, `base`, is there; `at` a time all the others come, and leave `for` so long after.",
        ("at", "for", "base"),
    ),
    "stairs": ShapeKind("They come in so many equal `steps`, each a `step` after the one before.", ("steps", "step")),
}
"""Load shapes that a scenario may name."""

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
}  # fmt: skip
"""Comparisons that a threshold may use."""

PHASES = ("before", "during", "after")
"""Parts of a run with faults for which a threshold may hold alone."""

_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_BOUND = re.compile(r"\s*(<=|>=|==|<|>)\s*(\S+)\s*")
_ENV_NAME = re.compile(r"SEATRIAL_[A-Z0-9_]+")
_ENV_SET_ELSEWHERE = {
    "SEATRIAL_DATABASE_URL": "the runner sets this",
    "SEATRIAL_JWT_SECRET": "the runner sets this",
    "SEATRIAL_HOST": "the runner sets this",
    "SEATRIAL_PORT": "the runner sets this",
    "SEATRIAL_LOG_LEVEL": "set server.log_level instead",
    "SEATRIAL_STORAGE": "set storage.strategy instead",
    "SEATRIAL_RETENTION_SECONDS": "set storage.retention instead",
    "SEATRIAL_PRUNE_INTERVAL_SECONDS": "set storage.prune_interval instead",
}


# ---------------------------------------------------------------- mistakes


class Problem(NamedTuple):
    """One mistake in a scenario."""

    source: str
    """The file, or `override`."""
    key: str
    """The key's path, such as `fault[0].at`; empty: the file as a whole."""
    value: object
    """What was found; `...`: nothing."""
    expected: str

    def __str__(self) -> str:
        """One line: where, what was found, what was expected."""
        # A quoted TOML key can hold anything; what is printed must not steer the terminal.
        key = self.key if self.key.isprintable() else json.dumps(self.key)
        found = "" if self.value is ... else f" = {_shown(self.value)}"
        return ": ".join(part for part in (self.source, key + found, self.expected) if part)


class ScenarioError(Exception):
    """A scenario that cannot be run.

    Attributes:
        problems: every mistake, in the order of the file.
    """

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def unknown(word: str, known: Iterable[str], what: str) -> str:
    """The sentence for a word that is none of `known`: the nearest one, or all of them."""
    known = tuple(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"unknown {what}; " + (f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}")


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


# ---------------------------------------------------------------- values


def parse_duration(text: str) -> float:
    """Seconds of a duration such as `250ms`, `1s`, `1.5m` or `24h`.

    Raises:
        ValueError: it is no number with one of these units.
    """
    match = _DURATION.fullmatch(text)
    if not match:
        raise ValueError('expected a number with a unit (ms, s, m or h), such as "40s"')
    # Rounded to what the fleet can keep; 0.1 ms times 3 must not become 0.00030000000000000003.
    return round(float(match[1]) * _UNIT_SECONDS[match[2]], 6)


def seconds(value: float) -> str:
    """A duration in seconds, for people: `250ms`, `40s`, `24h`."""
    for unit in ("h", "m", "s"):
        if value >= _UNIT_SECONDS[unit] and (value / _UNIT_SECONDS[unit]).is_integer():
            return f"{value / _UNIT_SECONDS[unit]:.0f}{unit}"
    return f"{value:g}s" if value >= 1 or not value else f"{value * 1000:g}ms"


def _duration(least: str, most: str) -> Callable[[object], float]:
    def read(value: object) -> float:
        found = parse_duration(value if isinstance(value, str) else "")
        if not parse_duration(least) <= found <= parse_duration(most):
            raise ValueError(f"expected a duration from {least} to {most}")
        return found

    return read


def _integer(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"expected an integer from {least} to {most}")
        return value

    return read


def _number(least: float, most: float) -> Callable[[object], float]:
    def read(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ValueError(f"expected a number from {least:g} to {most:g}")
        return float(value)

    return read


def _signed_duration(most: str) -> Callable[[object], float]:
    """Of a clock: ahead, or with a minus behind; not 0."""
    least = "1ms"

    def read(value: object) -> float:
        text = value if isinstance(value, str) else ""
        found = parse_duration(text.removeprefix("-"))
        if not parse_duration(least) <= found <= parse_duration(most):
            raise ValueError(f"expected a duration from {least} to {most}, with a minus for a clock that is behind")
        return -found if text.startswith("-") else found

    return read


def _flag(value: object) -> bool:
    if value is not True and value is not False:
        raise ValueError("expected true or false")
    return value is True


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected a text that is not empty")
    return value


def _one_of(what: str, *known: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        if value not in known:
            raise ValueError(f"expected a {what}: {', '.join(known)}")
        return str(value)

    return read


def _mix(value: object) -> dict[str, int]:
    try:
        return checked_mix(value) if isinstance(value, dict) else parse_mix(value if isinstance(value, str) else "")
    except MixError as error:
        raise ValueError(f"expected {error}") from None


def _fault_kind(value: object) -> str:
    if value not in FAULTS:
        raise ValueError(unknown(str(value), FAULTS, "fault"))
    return str(value)


def bound(value: object) -> tuple[str, float]:
    """Comparison and limit of a threshold such as `< 1000`.

    Raises:
        ValueError: it is no comparison with a finite number.
    """
    match = _BOUND.fullmatch(value) if isinstance(value, str) else None
    try:
        limit = float(match[2]) if match else nan
    except ValueError:
        limit = nan
    if not match or not isfinite(limit):
        raise ValueError(f'expected a comparison ({" ".join(OPERATORS)}) and a number, such as "< 1000"')
    return match[1], limit


def _bound_text(value: object) -> str:
    bound(value)
    return str(value)


def environment(name: str, value: object) -> str:
    """The value of a variable of `[server.env]`.

    Raises:
        ValueError: a scenario may not set it, or not to this.
    """
    if not _ENV_NAME.fullmatch(name):
        raise ValueError("expected a name that begins with SEATRIAL_")
    if name in _ENV_SET_ELSEWHERE:
        raise ValueError(_ENV_SET_ELSEWHERE[name])
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("expected a text")
    return value


# ---------------------------------------------------------------- the format


class Key(NamedTuple):
    """A key of the format."""

    read: Callable[[object], Any]
    """Makes the value of what the file holds; its ValueError says what was expected."""
    default: object
    """As a file would say it; `...`: the key is required; None: it may be left out."""
    meaning: str


KEYS: dict[str, Key] = {
    "question": Key(_text, ..., "What the scenario answers."),
    "duration": Key(_duration("1s", "168h"), "40s", "How long the fleet sends, its ramp included."),
    "seed": Key(_integer(0, 2**63 - 1), 1, "Seed of every generated value."),
    "settle": Key(_duration("0s", "1h"), "10s", "How long after its end a fault still counts as going on."),
    "fleet.agents": Key(_integer(1, 100_000), 100, "Simulated agents."),
    "fleet.containers": Key(_integer(1, 1000), 5, "Containers of each agent."),
    "fleet.interval": Key(_duration("100ms", "1h"), "1s", "Time between two samples of a container."),
    "fleet.log_lines": Key(_integer(0, 10_000), 1, "Log lines of each agent in an interval."),
    "fleet.ramp": Key(_duration("0s", "1h"), "5s", "Time over which the agents connect."),
    "fleet.profiles": Key(_mix, mix_text(DEFAULT_MIX), "What the containers do: the weight of each profile."),
    "fleet.churn_per_hour": Key(_number(0, 1_000_000), 0, "Containers of an agent that are re-created in an hour."),
    "fleet.troubled_commands": Key(_number(0, 1), 0, "Share of the commands that a host carries out late, or refuses."),
    "fleet.processes": Key(_integer(1, 64), 1, "Processes over which the agents are spread."),
    "fleet.transport": Key(_one_of("transport", "picows", "websockets"), "picows", "WebSocket client of the fleet."),
    "ui.subscribers": Key(_integer(0, 10_000), 0, "Simulated browsers that watch live."),
    "ui.slow": Key(_integer(0, 1000), 0, "Simulated browsers that read at a tenth of the rate at which it comes."),
    "ui.reconnecting": Key(
        _integer(0, 10_000), 0, "Simulated browsers that lose their connection every few seconds, and come back."
    ),
    "ui.visit": Key(_duration("1s", "1h"), "25s", "How long a simulated browser stays, give or take a fifth."),
    "ui.chart_readers": Key(_integer(0, 1000), 0, "Simulated users who read charts, one a second each."),
    "ui.log_downloaders": Key(_integer(0, 1000), 0, "Simulated users who download logs, every two seconds each."),
    "ui.auditors": Key(_integer(0, 1000), 0, "Simulated users who read the audit log, every five seconds each."),
    "ui.spawn_rate": Key(_number(0.1, 1000), 10, "Simulated users of all kinds started a second."),
    "ui.processes": Key(_integer(1, 64), 1, "Processes of Locust; several share the users as workers of a master."),
    "ui.shape.kind": Key(_one_of("shape", *SHAPES), "steady", "How the number of browsers changes."),
    "ui.shape.over": Key(_duration("1s", "24h"), "30s", "ramp: from the first browser to the last."),
    "ui.shape.steps": Key(_integer(2, 100), 5, "stairs: how many."),
    "ui.shape.step": Key(_duration("1s", "24h"), "10s", "stairs: time from one to the next."),
    "ui.shape.at": Key(_duration("1s", "168h"), "30s", "spike: when all are there, after the first came."),
    "ui.shape.for": Key(_duration("1s", "24h"), "10s", "spike: how long they stay."),
    "ui.shape.base": Key(_number(0, 1), 0.1, "spike: share of the browsers before and after it; one at least."),
    "actions.operators": Key(_integer(0, 1000), 0, "Simulated users who start, stop and restart containers."),
    "actions.per_second": Key(_number(0.01, 1000), 1, "Attempts a second, of all operators together."),
    "server.restart": Key(_flag, False, "Whether the runner starts the server again when it dies."),
    "server.log_level": Key(
        _one_of("log level", "debug", "info", "warning", "error"), "info", "The server's log level."
    ),
    "storage.strategy": Key(_one_of("strategy", *STRATEGIES), "plain", "How samples and log lines are stored."),
    "storage.retention": Key(_duration("1s", "8760h"), "24h", "Age at which rows are removed."),
    "storage.prune_interval": Key(_duration("100ms", "24h"), "1m", "Time between two removals."),
    "storage.backfill": Key(
        _duration("0s", "8760h"), "0s", "How much history is written before the fleet starts, which continues it."
    ),
}
"""Every key but the lists of `FAULT_KEYS`, `[server.env]` and `[thresholds]`."""

FAULT_KEYS: dict[str, Key] = {
    "at": Key(_duration("0s", "168h"), ..., "When it happens, after the start of the load."),
    "kind": Key(_fault_kind, ..., "What happens."),
    "for": Key(_duration("100ms", "1h"), "5s", "How long it lasts."),
    "fraction": Key(_number(0.001, 1), 0.5, "Share of the connections, or of the agents."),
    "agents": Key(_integer(1, 100_000), None, "How many agents, instead of a share."),
    "skew": Key(_signed_duration("1h"), "90s", "By how much a clock is ahead, or with a minus behind."),
    "bytes_per_second": Key(_integer(100, 1_000_000_000), 10_000, "What a slow link carries, each way."),
    "latency": Key(_duration("0s", "1m"), "200ms", "How much later each frame of a slow link comes, each way."),
    "frames": Key(_integer(1, 100_000), 1000, "Frames of each agent."),
}
"""The keys of each `[[fault]]`; `FaultKind.keys` says which kind takes which."""

THRESHOLD_KEYS: dict[str, Key] = {
    "bound": Key(_bound_text, ..., "The comparison, such as `< 1000`."),
    "abort": Key(_flag, False, "Whether the run ends when it is broken."),
    "grace": Key(_duration("0s", "1h"), "10s", "How long it must be broken without a break before the run ends."),
}
"""The keys of a threshold that is written as a table; one that is written as a text is its `bound`."""
