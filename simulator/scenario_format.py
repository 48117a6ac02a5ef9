"""The format of a scenario: its keys, what each takes, and how a mistake is told.

`KEYS`, `FAULT_KEYS` and `THRESHOLD_KEYS` are the whole format: `simulator.scenario` reads files against them, and the JSON
Schema and the template of `seatrial new` are made of them.
"""

import json
import re
from typing import Any, NamedTuple

from simulator.profiles import DEFAULT_MIX, mix_text
from simulator.scenario_values import (
    OPERATORS,
    Bound,
    Duration,
    FaultName,
    Flag,
    Integer,
    Kind,
    Mix,
    Number,
    OneOf,
    SignedDuration,
    Text,
    WholeSeconds,
    bound,
    parse_duration,
    seconds,
    unknown,
)

__all__ = [
    "FAULT_KEYS", "KEYS", "OPERATORS", "PHASES", "SHAPES", "STRATEGIES", "THRESHOLD_KEYS", "Key", "Problem",
    "ScenarioError", "ShapeKind", "bound", "environment", "parse_duration", "postgres_setting", "seconds", "unknown",
]  # fmt: skip

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

PHASES = ("before", "during", "after")
"""Parts of a run with faults for which a threshold may hold alone."""

ENV_NAME = re.compile(r"SEATRIAL_[A-Z0-9_]+")
"""A variable of `[server.env]`."""
POSTGRES_NAME = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)?")
"""A setting of `[postgres]`: a name as `server.db.postgres_settings` takes it."""
NO_SETTING = "none"
"""In `[postgres]`: takes out what an extended file sets."""
ENV_SET_ELSEWHERE = {
    "SEATRIAL_DATABASE_URL": "the runner sets this",
    "SEATRIAL_JWT_SECRET": "the runner sets this",
    "SEATRIAL_HOST": "the runner sets this",
    "SEATRIAL_PORT": "the runner sets this",
    "SEATRIAL_LOG_LEVEL": "set server.log_level instead",
    "SEATRIAL_STORAGE": "set storage.strategy instead",
    "SEATRIAL_RETENTION_SECONDS": "set storage.retention instead",
    "SEATRIAL_PRUNE_INTERVAL_SECONDS": "set storage.prune_interval instead",
}
"""Variables that a scenario may not set, and why."""


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


def _shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def environment(name: str, value: object) -> str:
    """The value of a variable of `[server.env]`.

    Raises:
        ValueError: a scenario may not set it, or not to this.
    """
    if not ENV_NAME.fullmatch(name):
        raise ValueError("expected a name that begins with SEATRIAL_")
    if name in ENV_SET_ELSEWHERE:
        raise ValueError(ENV_SET_ELSEWHERE[name])
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("expected a text")
    return value


def postgres_setting(name: str, value: object) -> str:
    """The value of a setting of `[postgres]`.

    Raises:
        ValueError: it is named as none, or the value is not a text.
    """
    if not POSTGRES_NAME.fullmatch(name):
        raise ValueError("expected a name as in postgresql.conf, such as shared_buffers")
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError('expected a text, such as "4GB"')
    return value


# ---------------------------------------------------------------- the format


class Key(NamedTuple):
    """A key of the format."""

    kind: Kind
    default: object
    """As a file would say it; `...`: the key is required; None: it may be left out."""
    meaning: str

    def read(self, value: object) -> Any:
        """The value of what the file holds.

        Raises:
            ValueError: it is none; its sentence says what was expected.
        """
        return self.kind.read(value)


KEYS: dict[str, Key] = {
    "extends": Key(
        Text(),
        None,
        "The scenario of which this one tells the differences: the name of one that is shipped, or a file.",
    ),
    "question": Key(Text(), ..., "What the scenario answers."),
    "duration": Key(Duration("1s", "168h"), "40s", "How long the fleet sends, its ramp included."),
    "seed": Key(Integer(0, 2**63 - 1), 1, "Seed of every generated value."),
    "warm_up": Key(Duration("0s", "1h"), "0s", "Time from the start that no latency and no series counts."),
    "settle": Key(Duration("0s", "1h"), "10s", "How long after its end a fault still counts as going on."),
    "fleet.agents": Key(Integer(1, 100_000), 100, "Simulated agents."),
    "fleet.containers": Key(Integer(1, 1000), 5, "Containers of each agent."),
    "fleet.interval": Key(Duration("100ms", "1h"), "1s", "Time between two samples of a container."),
    "fleet.log_lines": Key(Integer(0, 10_000), 1, "Log lines of each agent in an interval."),
    "fleet.ramp": Key(Duration("0s", "1h"), "5s", "Time over which the agents connect."),
    "fleet.profiles": Key(Mix(), mix_text(DEFAULT_MIX), "What the containers do: the weight of each profile."),
    "fleet.churn_per_hour": Key(Number(0, 1_000_000), 0, "Containers of an agent that are re-created in an hour."),
    "fleet.troubled_commands": Key(Number(0, 1), 0, "Share of the commands that a host carries out late, or refuses."),
    "fleet.token_lifetime": Key(
        WholeSeconds("2s", "24h"), "1h", "How long an agent's token is valid; the server tells it in time to renew it."
    ),
    "fleet.organisations": Key(
        Integer(1, 64), 1, "Organisations to which agents and simulated users belong in turn; none may see another's."
    ),
    "fleet.processes": Key(Integer(1, 64), 1, "Processes over which the agents are spread."),
    "fleet.transport": Key(OneOf("transport", "picows", "websockets"), "picows", "WebSocket client of the fleet."),
    "ui.subscribers": Key(Integer(0, 10_000), 0, "Simulated browsers that watch live."),
    "ui.slow": Key(Integer(0, 1000), 0, "Simulated browsers that read at a tenth of the rate at which it comes."),
    "ui.reconnecting": Key(
        Integer(0, 10_000), 0, "Simulated browsers that lose their connection every few seconds, and come back."
    ),
    "ui.visit": Key(Duration("1s", "1h"), "25s", "How long a simulated browser stays, give or take a fifth."),
    "ui.chart_readers": Key(Integer(0, 1000), 0, "Simulated users who read charts, one a second each."),
    "ui.log_downloaders": Key(Integer(0, 1000), 0, "Simulated users who download logs, every two seconds each."),
    "ui.auditors": Key(Integer(0, 1000), 0, "Simulated users who read the audit log, every five seconds each."),
    "ui.spawn_rate": Key(Number(0.1, 1000), 10, "Simulated users of all kinds started a second."),
    "ui.processes": Key(Integer(1, 64), 1, "Processes of Locust; several share the users as workers of a master."),
    "ui.shape.kind": Key(OneOf("shape", *SHAPES), "steady", "How the number of browsers changes."),
    "ui.shape.over": Key(Duration("1s", "24h"), "30s", "ramp: from the first browser to the last."),
    "ui.shape.steps": Key(Integer(2, 100), 5, "stairs: how many."),
    "ui.shape.step": Key(Duration("1s", "24h"), "10s", "stairs: time from one to the next."),
    "ui.shape.at": Key(Duration("1s", "168h"), "30s", "spike: when all are there, after the first came."),
    "ui.shape.for": Key(Duration("1s", "24h"), "10s", "spike: how long they stay."),
    "ui.shape.base": Key(Number(0, 1), 0.1, "spike: share of the browsers before and after it; one at least."),
    "actions.operators": Key(Integer(0, 1000), 0, "Simulated users who start, stop and restart containers."),
    "actions.per_second": Key(Number(0.01, 1000), 1, "Attempts a second, of all operators together."),
    "server.restart": Key(Flag(), False, "Whether the runner starts the server again when it dies."),
    "server.log_level": Key(OneOf("log level", "debug", "info", "warning", "error"), "info", "The server's log level."),
    "storage.strategy": Key(OneOf("strategy", *STRATEGIES), "plain", "How samples and log lines are stored."),
    "storage.retention": Key(Duration("1s", "8760h"), "24h", "Age at which rows are removed."),
    "storage.prune_interval": Key(Duration("100ms", "24h"), "1m", "Time between two removals."),
    "storage.backfill": Key(
        Duration("0s", "8760h"), "0s", "How much history is written before the fleet starts, which continues it."
    ),
}
"""Every key but the lists of `FAULT_KEYS`, `[server.env]` and `[thresholds]`."""

FAULT_KEYS: dict[str, Key] = {
    "at": Key(Duration("0s", "168h"), ..., "When it happens, after the start of the load."),
    "kind": Key(FaultName(), ..., "What happens."),
    "for": Key(Duration("100ms", "1h"), "5s", "How long it lasts."),
    "fraction": Key(Number(0.001, 1), 0.5, "Share of the connections, or of the agents."),
    "agents": Key(Integer(1, 100_000), None, "How many agents, instead of a share."),
    "skew": Key(SignedDuration("1h"), "90s", "By how much a clock is ahead, or with a minus behind."),
    "bytes_per_second": Key(Integer(100, 1_000_000_000), 10_000, "What a slow link carries, each way."),
    "latency": Key(Duration("0s", "1m"), "200ms", "How much later each frame of a slow link comes, each way."),
    "frames": Key(Integer(1, 100_000), 1000, "Frames of each agent."),
}
"""The keys of each `[[fault]]`; `FaultKind.keys` says which kind takes which."""

THRESHOLD_KEYS: dict[str, Key] = {
    "bound": Key(Bound(), ..., "The comparison, such as `< 1000`."),
    "abort": Key(Flag(), False, "Whether the run ends when it is broken."),
    "grace": Key(Duration("0s", "1h"), "10s", "How long it must be broken without a break before the run ends."),
}
"""The keys of a threshold that is written as a table; one that is written as a text is its `bound`."""
